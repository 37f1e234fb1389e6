"""What a case is given: short ways to make pods and containers, to look into them, and their removal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crib.client import events, pods
from crib.client.errors import ClientError
from crib.conform.expect import Mismatch, NotApplicable
from crib.conform.subject import LABEL, Subject
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from crib.client.connection import UnaryMethod
    from crib.client.pods import Pod

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
NOBODY = "0" * 64
"""An id that no runtime gives."""
PATIENCE = 60.0
"""Seconds for what happens by itself: a container ends, a server listens, a line is logged."""


@dataclass(frozen=True, slots=True)
class Box:
    """A running container."""

    id: str
    pod: Pod
    trial: Trial

    async def execute(self, *command: str, timeout: int = 0) -> pb.ExecSyncResponse:
        """ExecSync."""
        request = pb.ExecSyncRequest(container_id=self.id, cmd=command, timeout=timeout)
        return await self.trial.call(self.trial.runtime.ExecSync, request)

    async def sh(self, script: str) -> str:
        """What a shell script in the container prints, stripped. Mismatch unless it ends with 0."""
        reply = await self.execute("sh", "-c", script)
        if reply.exit_code:
            said = (reply.stderr or reply.stdout).decode(errors="replace")
            raise Mismatch(f"`{script}` in the container", "exit code 0", f"{reply.exit_code}: {said}")
        return reply.stdout.decode(errors="replace").strip()

    async def can(self, script: str) -> bool:
        """Whether the script ends with 0."""
        return (await self.execute("sh", "-c", script)).exit_code == 0

    async def status(self) -> pb.ContainerStatus:
        """ContainerStatus."""
        return await self.trial.status(self.id)


class Trial:
    """One case's pods and containers. `clean` removes them."""

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject = subject
        self.connection = subject.connection
        self.runtime, self.images = subject.connection.runtime, subject.connection.image
        self._name = name
        self._count = 0
        self._pods: list[str] = []
        self._containers: list[str] = []

    async def call(self, method: UnaryMethod[_Request, _Response], request: _Request) -> _Response:
        """One call; ClientError."""
        return await self.connection.call(method, request)

    def needs(self, feature: str) -> None:
        """NotApplicable unless Status offers it."""
        if not self.subject.feature(feature):
            raise NotApplicable(f"Status does not offer {feature}")

    def directory(self) -> str:
        """A new directory of the host, to be mounted; everyone may read it."""
        self._count += 1
        path = os.path.join(self.subject.directory, "mounts", f"{self._name}-{self._count}")
        os.makedirs(path)
        os.chmod(path, 0o777)  # noqa: S103  # containers of any user write to it
        return path

    def pod_config(self) -> pb.PodSandboxConfig:
        """A plain pod, to be changed by the case."""
        self._count += 1
        return self.subject.pod_config(f"{self._name}-{self._count}".replace("_", "-")[-63:].strip("-"))

    async def pod(self, config: pb.PodSandboxConfig | None = None, handler: str | None = None) -> Pod:
        """A pod of the case's own."""
        wanted = self.subject.handler if handler is None else handler
        pod = await pods.run_sandbox(self.connection, config or self.pod_config(), wanted)
        self._pods.append(pod.id)
        return pod

    def config(self, *command: str) -> pb.ContainerConfig:
        """A container that runs `command`, or sleeps; to be changed by the case."""
        self._count += 1
        return pb.ContainerConfig(
            metadata=pb.ContainerMetadata(
                name=f"{self._name}-{self._count}".replace("_", "-")[-63:].strip("-")
            ),
            image=pb.ImageSpec(image=self.subject.image, user_specified_image=self.subject.image),
            command=command or ("sleep", "3600"),
            labels={LABEL: self.subject.run, "conform/container": f"{self._name}-{self._count}"},
            annotations={"conform/case": self._name},
            log_path=f"{self._name}-{self._count}.log",
            linux=pb.LinuxContainerConfig(
                security_context=pb.LinuxContainerSecurityContext(
                    namespace_options=pb.NamespaceOption(pid=pb.CONTAINER)
                )
            ),
        )

    async def create(self, config: pb.ContainerConfig | None = None, pod: Pod | None = None) -> str:
        """A created container, in the shared pod if none is named."""
        where = pod or await self.subject.shared_pod()
        container = await pods.create_container(self.connection, where, config or self.config())
        self._containers.append(container)
        return container

    async def start(self, container: str) -> None:
        """StartContainer."""
        await pods.start_container(self.connection, container)

    async def box(self, config: pb.ContainerConfig | None = None, pod: Pod | None = None) -> Box:
        """A running container, in the shared pod if none is named."""
        where = pod or await self.subject.shared_pod()
        container = await self.create(config, where)
        await self.start(container)
        return Box(container, where, self)

    async def ended(self, config: pb.ContainerConfig, pod: Pod | None = None) -> pb.ContainerStatus:
        """The status of a container that was run to its end."""
        return await self.exited((await self.box(config, pod)).id)

    async def exited(self, container: str) -> pb.ContainerStatus:
        """The status, once it has ended; TimedOut."""
        return await events.wait_exited(self.connection, container, PATIENCE)

    async def status(self, container: str) -> pb.ContainerStatus:
        """ContainerStatus."""
        return await pods.container_status(self.connection, container)

    async def pod_status(self, pod_id: str) -> pb.PodSandboxStatus:
        """PodSandboxStatus."""
        return await pods.sandbox_status(self.connection, pod_id)

    async def stop(self, container: str, timeout: int = 0) -> None:
        """StopContainer."""
        await pods.stop_container(self.connection, container, timeout)

    async def remove(self, container: str) -> None:
        """RemoveContainer."""
        await self.call(self.runtime.RemoveContainer, pb.RemoveContainerRequest(container_id=container))

    async def stop_pod(self, pod_id: str) -> None:
        """StopPodSandbox."""
        await self.call(self.runtime.StopPodSandbox, pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))

    async def remove_pod(self, pod_id: str) -> None:
        """RemovePodSandbox."""
        await pods.remove(self.connection, pod_id)

    async def clean(self) -> None:
        """Remove all of it. What cannot be removed is left to the end of the run, which tells it."""
        for container in self._containers:
            try:
                await self.stop(container)
                await self.remove(container)
            except ClientError:
                pass  # the pod's removal takes it too
        for pod_id in self._pods:
            await pods.discard(self.connection, pod_id)


def write(path: str, text: str = "") -> None:
    """A small file of the node."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def read(path: str) -> bytes:
    """A small file of the node; nothing if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
