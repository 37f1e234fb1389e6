"""A manifest of a pod that runs: its Pod, its claims, and the ConfigMaps that its volumes were made of."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

from crib.client import attempts, images, lookup
from crib.client.workloads import pod_volumes
from crib.client.workloads.claim_documents import claim_document, volume_source
from crib.client.workloads.generated import DATA_LINK, read_files
from crib.client.workloads.mounting import mounts_below
from crib.client.workloads.sub_paths import PART
from crib.manifest.rendering import MountSource, RunningParts, pod_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crib.client.connection import Connection
    from crib.manifest.plan import Site
    from crib.stubs.node.v1.node_pb2 import Volume, VolumeUse
    from crib.stubs.runtime.v1.api_pb2 import ContainerConfig, PodSandbox, PodSandboxMetadata

_ALIASES = "# Entries added by HostAliases."


async def manifest_of(
    connection: Connection, pod: PodSandbox, site: Site, *, secrets: bool = False
) -> list[dict[str, Any]]:
    """The documents, the Pod first. `secrets`: with the Secrets that its volumes hold.

    NotOffered if the runtime does not tell what pods were made from.
    """
    sandbox = await attempts.sandbox_config(connection, pod.id)
    here = lookup.latest(await lookup.containers(connection, pod.id)).values()
    configs = [await attempts.container_config(connection, one.id) for one in here]
    for config in configs:
        await _without_images_user(connection, config)
    attached = await pod_volumes.attached(connection, site.dirs, sandbox.metadata.uid)
    sources = _Sources(site, sandbox.metadata, attached)
    parts = RunningParts(
        sandbox=sandbox,
        containers=configs,
        handler=pod.runtime_handler,
        sources={path: sources.find(path) for path in _host_paths(configs) if sources.is_known(path)},
        aliases=sources.aliases(),
        hosts_path=sources.hosts_path,
        seccomp_root=site.seccomp_root,
    )
    found = pod_document(parts)
    return [found, *sources.documents(secrets=secrets)]


async def _without_images_user(connection: Connection, config: ContainerConfig) -> None:
    """The image names the user again when the manifest does not."""
    context = config.linux.security_context
    image = await images.find(connection, config.image.image)
    if image is None:
        return
    own = image.uid.value if image.HasField("uid") else 0
    if not image.username and context.HasField("run_as_user") and context.run_as_user.value == own:
        context.ClearField("run_as_user")
    if image.username == context.run_as_username:
        context.run_as_username = ""


def _host_paths(configs: Iterable[ContainerConfig]) -> list[str]:
    found = [mount.host_path for config in configs for mount in config.mounts if mount.host_path]
    return found + [device.host_path for config in configs for device in config.devices]


class _Sources:
    """What host paths are that crib made for a pod."""

    def __init__(
        self, site: Site, pod: PodSandboxMetadata, attached: Mapping[str, tuple[Volume, VolumeUse]]
    ) -> None:
        self._dirs = site.dirs
        self._uid = uid = pod.uid
        self._name = pod.name
        self._attached = attached
        self._claims: dict[str, Volume] = {}
        self._mounted = mounts_below(site.dirs.pod(uid)) if uid else []
        self._made: dict[str, tuple[bool, dict[str, bytes]]] = {}
        self.hosts_path = site.dirs.hosts(uid)

    def is_known(self, path: str) -> bool:
        """Whether it is among the pod's files, or a volume of the runtime."""
        is_of_pod = path.startswith(f"{self._dirs.pod(self._uid)}/")
        return path in self._attached or (is_of_pod and path != self.hosts_path)

    def find(self, path: str) -> MountSource:
        """The volume, or the part of one, that is mounted from there."""
        inside = ""
        if os.path.islink(f"{path}.source"):
            path, _, inside = os.readlink(f"{path}.source").partition(PART)
        if path in self._attached:
            volume, use = self._attached[path]
            if not volume.spec.owner:
                self._claims[volume.name] = volume
            return MountSource(use.volume, volume_source(volume, use), inside)
        if not path.startswith(f"{self._dirs.pod(self._uid)}/"):
            return MountSource(f"host-{abs(hash(path)) % 10**6}", {"hostPath": {"path": path}}, inside)
        return MountSource(os.path.basename(path), self._definition(path), inside)

    def _definition(self, path: str) -> dict[str, Any]:
        name, in_memory = os.path.basename(path), path in self._mounted
        if os.path.islink(os.path.join(path, DATA_LINK)):
            self._made[name] = (in_memory, read_files(path))
            called = f"{self._name}-{name}"
            items = [{"key": _key(file), "path": file} for file in sorted(self._made[name][1])]
            plain = all(item["key"] == item["path"] for item in items)
            source = {"secretName" if in_memory else "name": called, **({} if plain else {"items": items})}
            return {"secret" if in_memory else "configMap": source}
        if not in_memory:
            return {"emptyDir": {}}
        status = os.statvfs(path)
        return {"emptyDir": {"medium": "Memory", "sizeLimit": str(status.f_blocks * status.f_frsize)}}

    def documents(self, *, secrets: bool) -> list[dict[str, Any]]:
        """Of the volumes that were found: claims, ConfigMaps, and Secrets if they are wanted."""
        # One that was made without a class is used whatever it is, and no claim could say what that is.
        found = [
            claim_document(volume)
            for volume in self._claims.values()
            if volume.spec.storage_class or volume.spec.kind == "local"
        ]
        for name, (in_memory, files) in self._made.items():
            if in_memory and not secrets:
                continue
            data = {_key(file): base64.b64encode(content).decode() for file, content in files.items()}
            metadata = {"name": f"{self._name}-{name}"}
            kind, field = ("Secret", "data") if in_memory else ("ConfigMap", "binaryData")
            texts = {} if in_memory else _texts(files)
            binary = {key: value for key, value in data.items() if key not in texts}
            document = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
            found.append(document | ({"data": texts} if texts else {}) | ({field: binary} if binary else {}))
        return found

    def aliases(self) -> list[tuple[str, ...]]:
        """From the pod's own /etc/hosts."""
        try:
            with open(self.hosts_path, encoding="utf-8", errors="replace") as file:
                below = file.read().partition(_ALIASES)[2]
        except OSError:
            return []
        return [tuple(line.split("\t")) for line in below.splitlines() if line]


def _key(path: str) -> str:
    return path.replace("/", "_")


def _texts(files: dict[str, bytes]) -> dict[str, str]:
    found = {}
    for path, content in files.items():
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        if text.replace("\n", "").replace("\t", "").isprintable():
            found[_key(path)] = text
    return found
