"""A runtime under measurement: its connection, its process, its image, and the pods that were made in it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.bench.image import write_archive
from crib.client import ClientError, Connection, images, pods
from crib.client.connection import socket_path
from crib.client.errors import NotFound, NotOffered
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER,
    ContainerConfig,
    ContainerMetadata,
    ImageSpec,
    LinuxContainerConfig,
    LinuxContainerResources,
    LinuxContainerSecurityContext,
    LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext,
    Mount,
    NamespaceOption,
    PodSandboxConfig,
    PodSandboxMetadata,
    SecurityProfile,
)

if TYPE_CHECKING:
    from crib.client.pods import Pod

WORKLOAD = ("sleep", "86399")
"""What containers run; the odd number marks their processes as the workload."""
MEMORY_LIMIT = 64 << 20
REMOVERS = 10


@dataclass(slots=True)
class BenchTarget:
    """One runtime. `directory` is the bench's own, for logs and mounts."""

    name: str
    connection: Connection
    directory: str
    image: str
    handler: str = ""
    cgroup_parent: str = ""
    pid: int = 0
    seccomp: bool = False
    imported: bool = False
    alive: set[str] = field(default_factory=set)

    def sandbox_config(self) -> PodSandboxConfig:
        """A pod as a kubelet describes it."""
        uid = str(uuid.uuid4())
        # a dash in a slice's name is a level of the tree (systemd.slice(5))
        uid_there = uid.replace("-", "_") if self.cgroup_parent.endswith(".slice") else uid
        logs = os.path.join(self.directory, "logs", uid)
        os.makedirs(os.path.join(logs, "bench"))
        return PodSandboxConfig(
            metadata=PodSandboxMetadata(name=f"bench-{uid[:8]}", uid=uid, namespace="crib-bench"),
            hostname=f"bench-{uid[:8]}",
            log_directory=logs,
            labels={"io.kubernetes.pod.uid": uid, "io.kubernetes.pod.namespace": "crib-bench"},
            linux=LinuxPodSandboxConfig(
                cgroup_parent=self.cgroup_parent.replace("{uid}", uid_there),
                security_context=LinuxSandboxSecurityContext(
                    namespace_options=NamespaceOption(pid=CONTAINER), seccomp=SecurityProfile()
                ),
            ),
        )

    def container_config(self) -> ContainerConfig:
        """A container as a kubelet describes it: limits, two mounts, a log."""
        profile = SecurityProfile.RuntimeDefault if self.seccomp else SecurityProfile.Unconfined
        files = [
            Mount(container_path=path, host_path=os.path.join(self.directory, name))
            for path, name in (("/etc/hosts", "hosts"), ("/dev/termination-log", "termination-log"))
        ]
        return ContainerConfig(
            metadata=ContainerMetadata(name="bench"),
            image=ImageSpec(image=self.image, user_specified_image=self.image),
            command=WORKLOAD[:1],
            args=WORKLOAD[1:],
            mounts=files,
            log_path="bench/0.log",
            linux=LinuxContainerConfig(
                resources=LinuxContainerResources(
                    cpu_shares=102, memory_limit_in_bytes=MEMORY_LIMIT, oom_score_adj=1000
                ),
                security_context=LinuxContainerSecurityContext(
                    namespace_options=NamespaceOption(pid=CONTAINER),
                    seccomp=SecurityProfile(profile_type=profile),
                ),
            ),
        )

    async def start_pod(self) -> Pod:
        """Run a pod with one container, untimed."""
        pod = await pods.run(self.connection, self.sandbox_config(), [self.container_config()], self.handler)
        self.alive.add(pod.id)
        return pod

    async def remove_pod(self, pod_id: str) -> None:
        """Kill and remove a pod; ClientError when it cannot be removed."""
        error = await pods.discard(self.connection, pod_id)
        if error is not None:
            raise error
        self.alive.discard(pod_id)

    async def prepare(self) -> None:
        """Make sure that the image exists: use it, import it from busybox, or pull it."""
        self._make_files()
        if await images.find(self.connection, self.image) is not None:
            return
        if self.image.startswith("localhost/"):
            try:
                await self._import()
                return
            except NotOffered:
                raise ClientError(f"{self.name} has no image {self.image}; name one with --image") from None
        await images.pull(self.connection, self.image)

    def _make_files(self) -> None:
        for name in ("hosts", "termination-log"):
            with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
                file.write("127.0.0.1 localhost\n")

    async def _import(self) -> None:
        path = os.path.join(self.directory, "image.tar")
        if not os.path.exists(path):
            await asyncio.to_thread(write_archive, path, self.image)
            os.chmod(path, 0o644)
        self.imported = True  # also when we are interrupted: the runtime may finish it
        async for _ in images.import_progress(self.connection, path, [self.image]):
            pass

    async def clean(self) -> list[str]:
        """Remove every pod that is left, and the image if it was imported; what failed is given back."""
        gate = asyncio.Semaphore(REMOVERS)
        failures: list[str] = []

        async def one(pod_id: str) -> None:
            async with gate:
                try:
                    await self.remove_pod(pod_id)
                except ClientError as error:
                    failures.append(f"{self.name}: pod {pod_id[:12]} was not removed: {error}")

        await asyncio.gather(*(one(pod_id) for pod_id in list(self.alive)))
        if self.imported:
            try:
                image = await images.resolve(self.connection, self.image)
                await images.remove(self.connection, image.id)
            except NotFound:
                pass  # the import failed or was refused
            except ClientError as error:
                failures.append(f"{self.name}: image {self.image} was not removed: {error}")
        return failures


def parse_named(text: str, what: str) -> tuple[str, str]:
    """`NAME=VALUE`; ClientError otherwise."""
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise ClientError(f"{what} {text!r} is not NAME=VALUE")
    return name, value


def peer_pid(endpoint: str) -> int:
    """The process that listens at a socket (SO_PEERCRED, unix(7)); 0 when it cannot be found out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(socket_path(endpoint))
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError as error:
            print(f"no process behind {endpoint}: {error}", file=sys.stderr)
            return 0
    pid: int = struct.unpack("3i", raw)[0]
    return pid
