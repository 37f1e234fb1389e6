"""All that a container's OCI spec is made from.

Read beforehand, so that the recipe needs no files and no clock. The rules of hook files are among them
(oci-hooks(5), version 1.0.0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crib.model.container import ContainerConfig
from crib.model.edits import ContainerEdits
from crib.model.facts import HandlerFacts, HostFacts, RootfsFacts
from crib.model.ids import ContainerId
from crib.model.image import ImageConfig
from crib.model.sandbox import SandboxRecord
from crib.model.settings import HandlerSettings, NodeMount
from crib.wire import oci_runtime as oci

_MATCHED = 4096
"""Characters of a text that patterns are tried on: annotations are a user's, and may be long."""


@dataclass(frozen=True, slots=True)
class HookRule:
    """One file of a hooks directory: what it adds, and the conditions, all of which must hold."""

    edits: ContainerEdits
    always: bool | None = None
    annotations: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = ()
    commands: tuple[re.Pattern[str], ...] = ()
    has_bind_mounts: bool | None = None

    def meets(self, spec: oci.Spec, *, bind_mounts: bool) -> bool:
        """Whether this container gets the hook. A rule without a condition is for none."""
        held = []
        if self.always is not None:
            held.append(self.always)
        for key, value in self.annotations:
            held.append(any(_found(key, k) and _found(value, v) for k, v in spec.annotations.items()))
        if self.commands:
            held.append(any(_found(pattern, spec.process.args[0]) for pattern in self.commands))
        if self.has_bind_mounts is not None:
            held.append(self.has_bind_mounts == bind_mounts)
        return bool(held) and all(held)


def _found(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.search(text[:_MATCHED]) is not None


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device node of the host (mknod(2)): `kind` is `c` or `b`, `mode` the permission bits."""

    path: str
    """Where the container sees it."""
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class DeclaredVolume:
    """A VOLUME of the image that gets a directory of its own."""

    destination: str
    """Where in the container, without symbolic links."""
    source: str
    """The directory on the host."""


@dataclass(frozen=True, slots=True)
class PodPaths:
    """What the pod has ready for its containers; empty where it has none (host namespaces)."""

    hosts: str
    hostname: str
    resolv_conf: str
    shm: str
    net_namespace: str
    ipc_namespace: str
    uts_namespace: str
    user_namespace: str = ""
    pid_namespace: str = ""


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """The inputs of `container_spec`."""

    id: ContainerId
    config: ContainerConfig
    sandbox: SandboxRecord
    image: ImageConfig
    host: HostFacts
    handler: HandlerFacts
    rootfs: RootfsFacts
    pod: PodPaths
    root: str
    """Absolute path of the mounted root."""
    cgroups_path: str
    target_pid: int = 0
    """First process of the container whose pid namespace is joined (NamespaceMode TARGET)."""
    devices: tuple[HostDevice, ...] = ()
    """`config.devices`, found on the host; for a privileged container all of the host's."""
    node_devices: tuple[HostDevice, ...] = ()
    """`options.containers.devices`, found on the host."""
    seccomp_profile: bytes | None = None
    """Content of the localhost profile that `config.security.seccomp` names."""
    default_seccomp: bytes | None = None
    """Content of the profile that stands for RuntimeDefault, which can be decoded; None: our own does."""
    seccomp_filter: str = ""
    """What the runtime made of the same seccomp profile before, in base64; empty lets it compile."""
    pids_limit: int = 0
    """Tasks of a container that names no limit itself; 0: none."""
    profiles: frozenset[str] = frozenset()
    """Of the AppArmor profiles that may be needed, those that the kernel has loaded."""
    selinux_level: str = ""
    """The pod's own, where SELinux is on: two categories that no other pod has."""
    default_hostname: str = ""
    """The node's, for pods on the host's network."""
    options: HandlerSettings = HandlerSettings()
    """What the administrator has set for the handler, and for all of them."""
    base_spec: Mapping[str, Any] = field(default_factory=dict)
    """The usable part of the handler's base spec (`base_spec.usable_part`)."""
    cdi: tuple[ContainerEdits, ...] = ()
    """Of the CDI devices, each on its own."""
    hook_rules: tuple[HookRule, ...] = ()
    """Of the hook files, by name."""
    edits: tuple[ContainerEdits, ...] = ()
    """What the request for the create carries."""
    blockio_classes: Mapping[str, oci.BlockIo] = field(default_factory=dict)
    """The node's classes of block I/O that annotations and edits may name."""
    rdt_classes: frozenset[str] = frozenset()
    """The node's classes of RDT, likewise."""
    device_ownership: bool = False
    """Setting `device_ownership_from_security_context`."""
    mount_sources: tuple[str, ...] = ()
    """What to mount for each of `config.mounts`: the host path without symbolic links, or where the image is
    mounted."""
    node_mounts: tuple[NodeMount, ...] = ()
    """`defaults.node_mounts`, their sources without symbolic links."""
    declared_volumes: tuple[DeclaredVolume, ...] = ()

    locked_options: tuple[tuple[str, ...], ...] = ()
    """In a pod with a user namespace: for each of `config.mounts`, and then of the node's, the flags of the
    mount that it lies on."""
    submounts: tuple[tuple[str, ...], ...] = ()
    """For each of `config.mounts` what is mounted below its source (relative paths, parents first), for a
    runtime that leaves it out in a pod with a user namespace."""

    @property
    def privileged(self) -> bool:
        """The question that each author asks."""
        return self.config.security.privileged
