"""The CRI's two services over a fake world."""

# ruff: noqa: N802  # names are the services' own

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio

from crib.stubs.runtime.v1 import api_pb2 as cri
from crib.stubs.runtime.v1 import api_pb2_grpc
from crib.testing.streams import FakeStreams
from crib.testing.world import FakeProgram, FakeWorld

Context = Any
"""grpc.aio.ServicerContext, of any request and reply."""
_KILLED = 137
"""Exit code of a program that was ended by SIGKILL."""


class FakeRuntimeService(api_pb2_grpc.RuntimeServiceServicer):
    """Pods and containers. Calls without a method here are answered UNIMPLEMENTED."""

    def __init__(self, world: FakeWorld, streams: FakeStreams | None = None) -> None:
        """Without `streams` there are none: such calls are answered UNIMPLEMENTED."""
        self.world = world
        self._streams = streams
        self._ends: set[asyncio.Task[None]] = set()

    async def Version(self, request: Any, context: Context) -> cri.VersionResponse:
        return cri.VersionResponse(
            version="0.1.0",
            runtime_name=self.world.name,
            runtime_version=self.world.version,
            runtime_api_version="v1",
        )

    async def Status(self, request: Any, context: Context) -> cri.StatusResponse:
        return cri.StatusResponse(status=cri.RuntimeStatus(conditions=self.world.conditions))

    async def RunPodSandbox(self, request: Any, context: Context) -> cri.RunPodSandboxResponse:
        pod_id, config = self.world.new_id(), request.config
        self.world.configs[pod_id] = config
        self.world.pods[pod_id] = cri.PodSandbox(
            id=pod_id,
            metadata=config.metadata,
            created_at=time.time_ns(),
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=request.runtime_handler,
        )
        self.world.tell(pod_id, cri.CONTAINER_CREATED_EVENT)
        self.world.tell(pod_id, cri.CONTAINER_STARTED_EVENT)
        return cri.RunPodSandboxResponse(pod_sandbox_id=pod_id)

    async def StopPodSandbox(self, request: Any, context: Context) -> cri.StopPodSandboxResponse:
        pod_id = request.pod_sandbox_id
        for container_id, owner in list(self.world.owner.items()):
            if owner == pod_id and self._runs(container_id):
                self.world.exited(container_id, _KILLED)
        pod = self.world.pods.get(pod_id)
        if pod is not None and pod.state == cri.SANDBOX_READY:
            pod.state = cri.SANDBOX_NOTREADY
            self.world.tell(pod_id, cri.CONTAINER_STOPPED_EVENT)
        return cri.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: Any, context: Context) -> cri.RemovePodSandboxResponse:
        pod_id = request.pod_sandbox_id
        for container_id in [c for c, owner in self.world.owner.items() if owner == pod_id]:
            self._remove(container_id)
        if pod_id in self.world.pods:
            self.world.tell(pod_id, cri.CONTAINER_DELETED_EVENT)
            del self.world.pods[pod_id], self.world.configs[pod_id]
        return cri.RemovePodSandboxResponse()

    async def ListPodSandbox(self, request: Any, context: Context) -> cri.ListPodSandboxResponse:
        wanted = request.filter
        found = [
            pod
            for pod in self.world.pods.values()
            if pod.id.startswith(wanted.id)
            and (not wanted.HasField("state") or pod.state == wanted.state.state)
            and wanted.label_selector.items() <= dict(pod.labels).items()
        ]
        return cri.ListPodSandboxResponse(items=found)

    async def PodSandboxStatus(self, request: Any, context: Context) -> cri.PodSandboxStatusResponse:
        await self._pod(request.pod_sandbox_id, context)
        status = self.world.pod_status(request.pod_sandbox_id)
        info = {"info": '{"runtime": "fake"}'} if request.verbose else {}
        return cri.PodSandboxStatusResponse(status=status, info=info)

    async def CreateContainer(self, request: Any, context: Context) -> cri.CreateContainerResponse:
        await self._pod(request.pod_sandbox_id, context)
        config = request.config
        image = self.world.find_image(config.image.image)
        if image is None and config.image.image:
            text = f"image {config.image.image!r} is not on this node: pull it first"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
        container_id = self.world.new_id()
        self.world.owner[container_id] = request.pod_sandbox_id
        self.world.container_configs[container_id] = config
        self.world.containers[container_id] = cri.ContainerStatus(
            id=container_id,
            metadata=config.metadata,
            created_at=time.time_ns(),
            image=config.image,
            image_ref=image.id if image else "",
            image_id=image.id if image else "",
            labels=config.labels,
            annotations=config.annotations,
            mounts=config.mounts,
            log_path=self.world.log_path(container_id),
        )
        self.world.tell(container_id, cri.CONTAINER_CREATED_EVENT)
        return cri.CreateContainerResponse(container_id=container_id)

    async def StartContainer(self, request: Any, context: Context) -> cri.StartContainerResponse:
        status = await self._container(request.container_id, context)
        if status.state != cri.CONTAINER_CREATED:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"container {status.id} was started before"
            )
        config = self.world.container_configs[status.id]
        program = self.world.program((*config.command, *config.args), FakeProgram(code=None))
        if program.refusal:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, program.refusal)
        status.state = cri.CONTAINER_RUNNING
        status.started_at = time.time_ns()
        self.world.tell(status.id, cri.CONTAINER_STARTED_EVENT)
        self.world.write_log(status.id, "stdout", program.out)
        self.world.write_log(status.id, "stderr", program.err)
        if program.code is not None:
            ending = asyncio.ensure_future(self._end(status.id, program.code, program.seconds))
            self._ends.add(ending)
            ending.add_done_callback(self._ends.discard)
        return cri.StartContainerResponse()

    async def _end(self, container_id: str, code: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._runs(container_id):
            self.world.exited(container_id, code)

    async def StopContainer(self, request: Any, context: Context) -> cri.StopContainerResponse:
        if self._runs(request.container_id):
            self.world.exited(request.container_id, _KILLED)
        return cri.StopContainerResponse()

    async def RemoveContainer(self, request: Any, context: Context) -> cri.RemoveContainerResponse:
        self._remove(request.container_id)
        return cri.RemoveContainerResponse()

    async def ListContainers(self, request: Any, context: Context) -> cri.ListContainersResponse:
        wanted = request.filter
        found = [
            cri.Container(
                id=status.id,
                pod_sandbox_id=self.world.owner[status.id],
                metadata=status.metadata,
                image=status.image,
                image_ref=status.image_ref,
                image_id=status.image_id,
                state=status.state,
                created_at=status.created_at,
                labels=status.labels,
                annotations=status.annotations,
            )
            for status in self.world.containers.values()
            if status.id.startswith(wanted.id)
            and wanted.pod_sandbox_id in ("", self.world.owner[status.id])
            and (not wanted.HasField("state") or status.state == wanted.state.state)
            and wanted.label_selector.items() <= dict(status.labels).items()
        ]
        return cri.ListContainersResponse(containers=found)

    async def ContainerStatus(self, request: Any, context: Context) -> cri.ContainerStatusResponse:
        status = await self._container(request.container_id, context)
        info = {"info": self.world.info} if request.verbose else {}
        return cri.ContainerStatusResponse(status=status, info=info)

    async def UpdateContainerResources(
        self, request: Any, context: Context
    ) -> cri.UpdateContainerResourcesResponse:
        status = await self._container(request.container_id, context)
        status.resources.linux.MergeFrom(request.linux)
        return cri.UpdateContainerResourcesResponse()

    async def ExecSync(self, request: Any, context: Context) -> cri.ExecSyncResponse:
        await self._running(request.container_id, context)
        program = self.world.program(list(request.cmd), FakeProgram())
        if program.refusal:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, program.refusal)
        lasts = float("inf") if program.code is None else program.seconds
        if request.timeout and lasts > request.timeout:
            await asyncio.sleep(request.timeout)
            text = f"the command took longer than {request.timeout} s"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
        await asyncio.sleep(lasts)
        return cri.ExecSyncResponse(stdout=program.out, stderr=program.err, exit_code=program.code or 0)

    async def Exec(self, request: Any, context: Context) -> cri.ExecResponse:
        await self._running(request.container_id, context)
        return cri.ExecResponse(url=self._given_streams.exec_url(request))

    async def Attach(self, request: Any, context: Context) -> cri.AttachResponse:
        await self._running(request.container_id, context)
        return cri.AttachResponse(url=self._given_streams.attach_url(request))

    async def PortForward(self, request: Any, context: Context) -> cri.PortForwardResponse:
        if request.pod_sandbox_id not in self.world.pods:
            await _unknown(context, f"pod sandbox {request.pod_sandbox_id} not found")
        return cri.PortForwardResponse(url=self._given_streams.forward_url())

    @property
    def _given_streams(self) -> FakeStreams:
        if self._streams is None:
            raise NotImplementedError
        return self._streams

    async def _running(self, container_id: str, context: Context) -> cri.ContainerStatus:
        status = await self._container(container_id, context)
        if status.state != cri.CONTAINER_RUNNING:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"container {status.id} does not run")
        return status

    async def ListContainerStats(self, request: Any, context: Context) -> cri.ListContainerStatsResponse:
        found = [_figures(status) for status in self.world.containers.values() if self._runs(status.id)]
        return cri.ListContainerStatsResponse(stats=found)

    async def GetContainerEvents(
        self, request: Any, context: Context
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        queue: asyncio.Queue[cri.ContainerEventResponse] = asyncio.Queue()
        self.world.subscribers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.world.subscribers.remove(queue)

    def _runs(self, container_id: str) -> bool:
        status = self.world.containers.get(container_id)
        return status is not None and status.state == cri.CONTAINER_RUNNING

    def _remove(self, container_id: str) -> None:
        if container_id in self.world.containers:
            if self._runs(container_id):
                self.world.exited(container_id, _KILLED)
            self.world.tell(container_id, cri.CONTAINER_DELETED_EVENT)
            for table in (self.world.containers, self.world.container_configs, self.world.owner):
                del table[container_id]

    async def _pod(self, pod_id: str, context: Context) -> cri.PodSandbox:
        pod = self.world.pods.get(pod_id)
        return pod if pod is not None else await _unknown(context, f"there is no pod sandbox {pod_id!r}")

    async def _container(self, container_id: str, context: Context) -> cri.ContainerStatus:
        status = self.world.containers.get(container_id)
        if status is None:
            await _unknown(context, f"there is no container {container_id!r}")
        return status


class FakeImageService(api_pb2_grpc.ImageServiceServicer):
    """Images; a pull takes no time, and gives every name an image of its own."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    async def ListImages(self, request: Any, context: Context) -> cri.ListImagesResponse:
        wanted = request.filter.image.image
        found = [self.world.find_image(wanted)] if wanted else self.world.images.values()
        return cri.ListImagesResponse(images=[image for image in found if image is not None])

    async def ImageStatus(self, request: Any, context: Context) -> cri.ImageStatusResponse:
        return cri.ImageStatusResponse(image=self.world.find_image(request.image.image))

    async def PullImage(self, request: Any, context: Context) -> cri.PullImageResponse:
        name = request.image.image
        if self.world.registry is not None and name not in self.world.registry:
            await _unknown(context, f"manifest of {name} could not be pulled: the registry does not have it")
        found = self.world.find_image(name)
        return cri.PullImageResponse(image_ref=found.id if found else self.world.add_image(name))

    async def RemoveImage(self, request: Any, context: Context) -> cri.RemoveImageResponse:
        if found := self.world.find_image(request.image.image):
            del self.world.images[found.id]
        return cri.RemoveImageResponse()

    async def ImageFsInfo(self, request: Any, context: Context) -> cri.ImageFsInfoResponse:
        used = sum(image.size for image in self.world.images.values())
        place = cri.FilesystemUsage(timestamp=time.time_ns(), used_bytes=cri.UInt64Value(value=used))
        return cri.ImageFsInfoResponse(image_filesystems=[place])


async def _unknown(context: Context, text: str) -> NoReturn:
    await context.abort(grpc.StatusCode.NOT_FOUND, text)
    raise AssertionError(text)  # abort has raised already


def _figures(status: cri.ContainerStatus) -> cri.ContainerStats:
    """Of a container that has used a second of CPU time and holds 1 MiB."""
    at = time.time_ns()
    return cri.ContainerStats(
        attributes=cri.ContainerAttributes(id=status.id, metadata=status.metadata, labels=status.labels),
        cpu=cri.CpuUsage(timestamp=at, usage_core_nano_seconds=cri.UInt64Value(value=10**9)),
        memory=cri.MemoryUsage(timestamp=at, working_set_bytes=cri.UInt64Value(value=1 << 20)),
    )
