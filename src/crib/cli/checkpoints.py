"""`crib checkpoint` and `crib restore`."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

from crib.cli.output import tell
from crib.cli.session import CommandError
from crib.client import lookup, pods
from crib.client.pods import Pod
from crib.client.specs import LOGS_ANNOTATION, ContainerSpec, MountSpec, PodSpec, container_config, pod_config
from crib.manifest.plan import Dirs
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire import checkpoint_archive as archive

if TYPE_CHECKING:
    from crib.cli.checkpoint_options import CheckpointOptions, RestoreOptions
    from crib.cli.session import CliSession
    from crib.client import Connection

_MARGIN = 30.0
"""Seconds that the call has beyond the daemon's time: the answer comes when the container runs again."""
_VERB_TIMEOUT = 300.0
"""Seconds for a call where the daemon's own limit holds."""


async def checkpoint(session: CliSession, options: CheckpointOptions) -> None:
    """One archive for each container; the daemon writes it."""
    if options.export and len(options.targets) > 1:
        raise CommandError("--export names one archive, and there are several containers")
    async with session.connect() as connection:
        for name in options.targets:
            found = await lookup.find_container(connection, name, options.container)
            container = found.container
            file = options.export or f"{found.pod.metadata.name}-{container.metadata.name}.tar"
            path = os.path.abspath(file)
            request = pb.CheckpointContainerRequest(
                container_id=container.id, location=path, timeout=options.timeout
            )
            limit = options.timeout + _MARGIN if options.timeout else _VERB_TIMEOUT
            await connection.call(connection.runtime.CheckpointContainer, request, timeout=limit)
            tell(path)


async def restore(session: CliSession, options: RestoreOptions) -> None:
    """A new pod is removed again if its container cannot be restored."""
    if options.pod and (options.name or options.handler):
        raise CommandError("--pod names a pod that is there: --name and --runtime are for a new one")
    is_file = options.checkpoint.startswith((".", "/")) or os.path.exists(options.checkpoint)
    image = os.path.abspath(options.checkpoint) if is_file else options.checkpoint
    name = _container_of(image) if is_file else "restored"
    spec = ContainerSpec(image, name=name, mounts=[_mount(text) for text in options.volume or ()])
    async with session.connect() as connection:
        if options.pod:
            pod = await _pod(connection, options.pod)
        else:
            new = PodSpec(options.name or name)
            made = pod_config(new, Dirs(session.pods_dir))
            pod = await pods.run_sandbox(connection, made, options.handler)
        try:
            container = await pods.create_container(connection, pod, container_config(spec, pod.config))
            await pods.start_container(connection, container)
        except BaseException:
            if not options.pod:
                await pods.discard(connection, pod.id)
            raise
        tell(container)


async def _pod(connection: Connection, name: str) -> Pod:
    """One that is there, with as much of its configuration as a container needs."""
    found = await lookup.find_pod(connection, name)
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=found.id)
    status = (await connection.call(connection.runtime.PodSandboxStatus, request)).status
    options = status.linux.namespaces.options
    config = pb.PodSandboxConfig(
        metadata=status.metadata,
        log_directory=status.annotations.get(LOGS_ANNOTATION, ""),
        linux=pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=options)
        ),
    )
    return Pod(found.id, config)


def _container_of(path: str) -> str:
    """The container's name, as the archive has it."""
    try:
        with tarfile.open(path, "r:") as found:
            member = found.getmember(archive.CONFIG)
            content = found.extractfile(member) if member.size <= archive.MAX_DOCUMENT else None
            if content is not None:
                return archive.decode_config(content.read()).name
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise CommandError(f"{path} is no checkpoint of a container: {error}") from None
    raise CommandError(f"{path} is no checkpoint of a container")


def _mount(text: str) -> MountSpec:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or mode not in ("", "ro", "rw"):
        raise CommandError(f"--volume {text}: it must be HOST:PATH or HOST:PATH:ro")
    return MountSpec(os.path.abspath(source), target, readonly=mode == "ro")
