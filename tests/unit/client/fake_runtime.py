"""A CRI runtime in memory behind a real unix socket: the client's and the command line's tests talk to it.

A container whose command is `exit N` ends at its start with that code, after writing a line to its log; one
whose command is `fail` cannot be started. Everything else runs until it is stopped.
"""

# ruff: noqa: N802, ASYNC230  # names are the service's own; the log is a few bytes

from __future__ import annotations

import asyncio
import json
import os
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from crib.api.translate.configs import plain
from crib.model.streams import PodAddress
from crib.streaming.head import BadRequest, RequestHead
from crib.streaming.server import StreamServer
from crib.stubs.node.v1 import node_pb2, node_pb2_grpc
from crib.stubs.runtime.v1 import api_pb2 as cri
from crib.stubs.runtime.v1 import api_pb2_grpc
from crib.wire.portforward import decode_target
from tests.unit.streaming.lab import Lab

Context = Any


class Older(StreamServer):
    """As containerd and CRI-O: a WebSocket is refused, and the token is spent all the same."""

    def _choose(self, head: RequestHead):  # type: ignore[no-untyped-def]  # as the server's own
        chosen = super()._choose(head)
        if head.asks_for("websocket"):
            raise BadRequest(403, "Forbidden")
        return chosen


@dataclass
class World:
    """What the fake holds; tests look at it and change it."""

    ids: int = 0
    """How many were given out."""
    pods: dict[str, cri.PodSandbox] = field(default_factory=dict)
    configs: dict[str, cri.PodSandboxConfig] = field(default_factory=dict)
    containers: dict[str, cri.ContainerStatus] = field(default_factory=dict)
    container_configs: dict[str, cri.ContainerConfig] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    images: dict[str, cri.Image] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    stop_timeouts: list[int] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    """Ids of the containers of StopContainer, in that order."""
    subscribers: list[asyncio.Queue[cri.ContainerEventResponse]] = field(default_factory=list)
    timeline: node_pb2.TimelineResponse = field(default_factory=node_pb2.TimelineResponse)
    exec_reply: cri.ExecSyncResponse = field(default_factory=cri.ExecSyncResponse)
    sandbox_gate: asyncio.Event | None = None
    version_gate: asyncio.Event | None = None
    version_calls: int = 0
    exec_as_requests: list[node_pb2.ExecAsRequest] = field(default_factory=list)
    exec_requests: list[cri.ExecSyncRequest] = field(default_factory=list)
    pull_requests: list[cri.PullImageRequest] = field(default_factory=list)
    progress_requests: list[node_pb2.PullProgressRequest] = field(default_factory=list)
    explained: node_pb2.ExplainRegistryResponse = field(default_factory=node_pb2.ExplainRegistryResponse)
    explain_requests: list[node_pb2.ExplainContainerRequest] = field(default_factory=list)
    explained_container: node_pb2.ExplainContainerResponse = field(
        default_factory=node_pb2.ExplainContainerResponse
    )
    check_requests: list[node_pb2.CheckImagesRequest] = field(default_factory=list)
    checked: list[node_pb2.CheckProgress] = field(default_factory=list)
    export_requests: list[node_pb2.ExportImagesRequest] = field(default_factory=list)
    lab: Lab | None = None
    """What streams are asked of; without one they are not offered."""
    forward_requests: list[cri.PortForwardRequest | node_pb2.ForwardRequest] = field(default_factory=list)
    tells_configs: bool = False
    """Whether verbose statuses have the configs that things were made from."""
    updates: list[cri.LinuxContainerResources] = field(default_factory=list)
    info: str = "{}"
    """Of a container's verbose status."""
    used_bytes: list[int] = field(default_factory=list)
    """Of the disk, for each question; 0 after the last."""
    image_infos: dict[str, str] = field(default_factory=dict)
    """Of an image's verbose status, by its id."""
    running_pulls: set[str] = field(default_factory=set)
    """Names of images that somebody is pulling: what `crib pull --watch` finds."""

    def new_id(self) -> str:
        """An id with no letter in it, so that no name in a test ("db") can be the beginning of one."""
        self.ids += 1
        return f"{self.ids:08}" * 8

    def add_image(self, name: str, number: int = 1, uid: int | None = 0) -> str:
        image_id = f"sha256:{number:064x}"
        image = cri.Image(id=image_id, repo_tags=[name], size=1_500_000)
        if uid is not None:
            image.uid.value = uid
        self.images[image_id] = image
        return image_id

    def exited(self, container_id: str, code: int) -> None:
        status = self.containers[container_id]
        status.state = cri.CONTAINER_EXITED
        status.exit_code = code
        status.finished_at = time.time_ns()
        for queue in self.subscribers:
            queue.put_nowait(
                cri.ContainerEventResponse(
                    container_id=container_id, container_event_type=cri.CONTAINER_STOPPED_EVENT
                )
            )

    def log_path(self, container_id: str) -> str:
        config = self.configs[self.owner[container_id]]
        return os.path.join(config.log_directory, self.container_configs[container_id].log_path)


class FakeRuntime(api_pb2_grpc.RuntimeServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Version(self, request: Any, context: Context) -> cri.VersionResponse:
        self.world.version_calls += 1
        if self.world.version_gate is not None:
            await self.world.version_gate.wait()
        return cri.VersionResponse(
            version="0.1.0", runtime_name="fake", runtime_version="1.0", runtime_api_version="v1"
        )

    async def Status(self, request: Any, context: Context) -> cri.StatusResponse:
        ready = cri.RuntimeCondition(type="RuntimeReady", status=True)
        network = cri.RuntimeCondition(type="NetworkReady", reason="NoConfig", message="no \x1b[31mnetwork")
        return cri.StatusResponse(status=cri.RuntimeStatus(conditions=[ready, network]))

    async def RunPodSandbox(self, request: Any, context: Context) -> cri.RunPodSandboxResponse:
        self.world.calls.append("RunPodSandbox")
        if request.runtime_handler == "missing":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "runtime_handler: no handler missing")
        pod_id = self.world.new_id()
        config = request.config
        if self.world.sandbox_gate is not None:
            await self.world.sandbox_gate.wait()
        self.world.configs[pod_id] = config
        self.world.pods[pod_id] = cri.PodSandbox(
            id=pod_id,
            metadata=config.metadata,
            created_at=time.time_ns(),
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=request.runtime_handler,
        )
        return cri.RunPodSandboxResponse(pod_sandbox_id=pod_id)

    async def StopPodSandbox(self, request: Any, context: Context) -> cri.StopPodSandboxResponse:
        self.world.calls.append("StopPodSandbox")
        if pod := self.world.pods.get(request.pod_sandbox_id):
            pod.state = cri.SANDBOX_NOTREADY
        for container_id, owner in self.world.owner.items():
            running = self.world.containers[container_id].state == cri.CONTAINER_RUNNING
            if running and owner == request.pod_sandbox_id:
                self.world.exited(container_id, 137)
        return cri.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: Any, context: Context) -> cri.RemovePodSandboxResponse:
        self.world.calls.append("RemovePodSandbox")
        self.world.pods.pop(request.pod_sandbox_id, None)
        for container_id in [c for c, p in self.world.owner.items() if p == request.pod_sandbox_id]:
            del self.world.containers[container_id], self.world.owner[container_id]
        return cri.RemovePodSandboxResponse()

    async def ListPodSandbox(self, request: Any, context: Context) -> cri.ListPodSandboxResponse:
        return cri.ListPodSandboxResponse(items=self.world.pods.values())

    async def PodSandboxStatus(self, request: Any, context: Context) -> cri.PodSandboxStatusResponse:
        pod = self.world.pods.get(request.pod_sandbox_id)
        if pod is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"sandbox {request.pod_sandbox_id} is not known")
        assert pod is not None
        status = cri.PodSandboxStatus(
            id=pod.id, metadata=pod.metadata, state=pod.state, created_at=pod.created_at
        )
        status.network.ip = "10.0.0.7"
        info = {"info": self._info('{"runtime": "fake"}', self.world.configs.get(pod.id))}
        return cri.PodSandboxStatusResponse(status=status, info=info if request.verbose else {})

    def _info(self, text: str, config: Any) -> str:
        """As crib's: what it was made from is in it, but for a runtime that does not tell."""
        if config is None or not self.world.tells_configs:
            return text
        return json.dumps({**json.loads(text), "config": plain(config)})

    async def CreateContainer(self, request: Any, context: Context) -> cri.CreateContainerResponse:
        self.world.calls.append(f"CreateContainer {request.config.metadata.name}")
        container_id = self.world.new_id()
        self.world.owner[container_id] = request.pod_sandbox_id
        self.world.container_configs[container_id] = request.config
        self.world.containers[container_id] = cri.ContainerStatus(
            id=container_id,
            metadata=request.config.metadata,
            created_at=time.time_ns(),
            image=request.config.image,
            annotations=request.config.annotations,
            log_path=os.path.join(request.sandbox_config.log_directory, request.config.log_path),
        )
        return cri.CreateContainerResponse(container_id=container_id)

    async def StartContainer(self, request: Any, context: Context) -> cri.StartContainerResponse:
        container_id = request.container_id
        config = self.world.container_configs[container_id]
        self.world.calls.append(f"StartContainer {config.metadata.name}")
        if list(config.command[:1]) == ["fail"]:
            await context.abort(grpc.StatusCode.INTERNAL, "crun start: no such file")
        self.world.containers[container_id].state = cri.CONTAINER_RUNNING
        if list(config.command[:1]) == ["exit"]:
            with open(self.world.log_path(container_id), "w", encoding="utf-8") as log:
                log.write("2026-01-02T03:04:05.000000001Z stderr P something is \n")
                log.write("2026-01-02T03:04:05.000000002Z stderr F wrong\x1b[2J\x9b\n")
            asyncio.get_running_loop().call_later(
                0.01, self.world.exited, container_id, int(config.command[1])
            )
        return cri.StartContainerResponse()

    async def StopContainer(self, request: Any, context: Context) -> cri.StopContainerResponse:
        self.world.calls.append("StopContainer")
        self.world.stop_timeouts.append(request.timeout)
        self.world.stopped.append(request.container_id)
        self.world.exited(request.container_id, 137)
        return cri.StopContainerResponse()

    async def RemoveContainer(self, request: Any, context: Context) -> cri.RemoveContainerResponse:
        self.world.containers.pop(request.container_id, None)
        self.world.owner.pop(request.container_id, None)
        return cri.RemoveContainerResponse()

    async def ListContainers(self, request: Any, context: Context) -> cri.ListContainersResponse:
        found = []
        for container_id, status in self.world.containers.items():
            owner = self.world.owner[container_id]
            if request.filter.pod_sandbox_id in ("", owner):
                found.append(
                    cri.Container(
                        id=container_id,
                        pod_sandbox_id=owner,
                        metadata=status.metadata,
                        image=status.image,
                        image_id=status.image_id,
                        state=status.state,
                        created_at=status.created_at,
                        annotations=status.annotations,
                    )
                )
        return cri.ListContainersResponse(containers=found)

    async def ContainerStatus(self, request: Any, context: Context) -> cri.ContainerStatusResponse:
        status = self.world.containers.get(request.container_id)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
        config = self.world.container_configs.get(request.container_id)
        info = {"info": self._info(self.world.info, config)} if request.verbose else {}
        return cri.ContainerStatusResponse(status=status, info=info)

    async def UpdateContainerResources(
        self, request: Any, context: Context
    ) -> cri.UpdateContainerResourcesResponse:
        self.world.updates.append(request.linux)
        self.world.containers[request.container_id].resources.linux.MergeFrom(request.linux)
        return cri.UpdateContainerResourcesResponse()

    async def Exec(self, request: Any, context: Context) -> cri.ExecResponse:
        self.world.calls.append("Exec")
        lab = await _lab(self.world, context)
        wanted = {name: getattr(request, name) for name in ("tty", "stdin", "stdout", "stderr")}
        return cri.ExecResponse(url=lab.exec_url(*request.cmd, **wanted))

    async def Attach(self, request: Any, context: Context) -> cri.AttachResponse:
        lab = await _lab(self.world, context)
        wanted = {name: getattr(request, name) for name in ("tty", "stdin", "stdout", "stderr")}
        return cri.AttachResponse(url=lab.attach_url(**wanted))

    async def PortForward(self, request: Any, context: Context) -> cri.PortForwardResponse:
        self.world.forward_requests.append(request)
        lab = await _lab(self.world, context)
        return cri.PortForwardResponse(url=lab.forward_url(*request.port))

    async def ListContainerStats(self, request: Any, context: Context) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse()

    async def ListPodSandboxStats(self, request: Any, context: Context) -> cri.ListPodSandboxStatsResponse:
        return cri.ListPodSandboxStatsResponse()

    async def ExecSync(self, request: Any, context: Context) -> cri.ExecSyncResponse:
        self.world.exec_requests.append(request)
        return self.world.exec_reply

    async def GetContainerEvents(
        self, request: Any, context: Context
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        queue: asyncio.Queue[cri.ContainerEventResponse] = asyncio.Queue()
        self.world.subscribers.append(queue)
        while True:
            yield await queue.get()


async def _lab(world: World, context: Context) -> Lab:
    if world.lab is None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")
    assert world.lab is not None
    return world.lab


class FakeImages(api_pb2_grpc.ImageServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def _find(self, name: str) -> cri.Image | None:
        for image in self.world.images.values():
            if name == image.id or name in image.repo_tags:
                return image
        return None

    async def ListImages(self, request: Any, context: Context) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=self.world.images.values())

    async def ImageStatus(self, request: Any, context: Context) -> cri.ImageStatusResponse:
        found = self._find(request.image.image)
        info = {"info": self.world.image_infos.get(found.id, "{}")} if found and request.verbose else {}
        return cri.ImageStatusResponse(image=found, info=info)

    async def PullImage(self, request: Any, context: Context) -> cri.PullImageResponse:
        name = request.image.image
        self.world.calls.append(f"PullImage {name}")
        self.world.pull_requests.append(request)
        if "missing" in name:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no image {name} in the registry")
        found = self._find(name)
        image_id = found.id if found else self.world.add_image(name, zlib.crc32(name.encode()))
        return cri.PullImageResponse(image_ref=image_id)

    async def ImageFsInfo(self, request: Any, context: Context) -> cri.ImageFsInfoResponse:
        used = self.world.used_bytes.pop(0) if self.world.used_bytes else 0
        place = cri.FilesystemUsage(used_bytes=cri.UInt64Value(value=used))
        return cri.ImageFsInfoResponse(image_filesystems=[place])

    async def RemoveImage(self, request: Any, context: Context) -> cri.RemoveImageResponse:
        self.world.calls.append(f"RemoveImage {request.image.image}")
        self.world.images.pop(request.image.image, None)
        return cri.RemoveImageResponse()


class FakeNode(node_pb2_grpc.NodeServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Info(self, request: Any, context: Context) -> node_pb2.InfoResponse:
        return node_pb2.InfoResponse(version="0.1.0", network_mode="bridge", facts={"kernel.release": "6.18"})

    async def Timeline(self, request: Any, context: Context) -> node_pb2.TimelineResponse:
        return self.world.timeline

    async def PullImageProgress(self, request: Any, context: Context) -> AsyncIterator[node_pb2.PullProgress]:
        self.world.progress_requests.append(request)
        if not request.start and request.image not in self.world.running_pulls:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such pull")
        layers = [
            node_pb2.LayerProgress(digest="sha256:ab", done_bytes=5, total_bytes=10, stage="downloading"),
            node_pb2.LayerProgress(digest="sha256:cd", total_bytes=20, stage="waiting"),
            node_pb2.LayerProgress(digest="sha256:ef", total_bytes=40, stage="present"),
        ]
        host = "mirror.example:5000"
        yield node_pb2.PullProgress(image=request.image, stage="fetching", host=host, layers=layers)
        if "missing" in request.image:
            yield node_pb2.PullProgress(stage="failed", finished=True, error="no such image in the registry")
            return
        image_id = self.world.add_image(request.image, 42)
        for layer in layers[:2]:
            layer.stage = "done"
        yield node_pb2.PullProgress(stage="done", host=host, layers=layers, finished=True, image_id=image_id)

    async def ExplainRegistry(self, request: Any, context: Context) -> node_pb2.ExplainRegistryResponse:
        if "blocked" in request.image:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"image: {request.image} is blocked by registries.conf"
            )
        return self.world.explained

    async def ExplainContainer(self, request: Any, context: Context) -> node_pb2.ExplainContainerResponse:
        self.world.explain_requests.append(request)
        return self.world.explained_container

    async def ExecAs(self, request: Any, context: Context) -> node_pb2.ExecAsResponse:
        self.world.exec_as_requests.append(request)
        lab = await _lab(self.world, context)
        wanted = {name: getattr(request.exec, name) for name in ("tty", "stdin", "stdout", "stderr")}
        return node_pb2.ExecAsResponse(url=lab.exec_url(*request.exec.cmd, **wanted))

    async def Forward(self, request: Any, context: Context) -> node_pb2.ForwardResponse:
        self.world.forward_requests.append(request)
        lab = await _lab(self.world, context)
        targets = map(decode_target, request.targets)
        beyond = tuple(PodAddress(one.kind, one.port, one.container, one.path) for one in targets)
        return node_pb2.ForwardResponse(url=lab.forward_url(beyond=beyond))

    async def CheckImages(self, request: Any, context: Context) -> AsyncIterator[node_pb2.CheckProgress]:
        self.world.check_requests.append(request)
        for item in self.world.checked:
            yield item

    async def ExportImages(self, request: Any, context: Context) -> node_pb2.ExportImagesResponse:
        self.world.export_requests.append(request)
        with open(request.path, "wb") as archive:
            archive.write(bytes(2048))
        return node_pb2.ExportImagesResponse(size_bytes=2048)

    async def ImportImage(self, request: Any, context: Context) -> AsyncIterator[node_pb2.ImportProgress]:
        yield node_pb2.ImportProgress(stage="reading", done_bytes=1, total_bytes=2)
        name = request.names[0] if request.names else "localhost/imported:latest"
        image = node_pb2.ImportedImage(image_id=self.world.add_image(name, 43), names=[name])
        yield node_pb2.ImportProgress(stage="done", images=[image])


async def serve(path: str, world: World, *, node: bool = True) -> grpc.aio.Server:
    """Start the fake at a socket; without `node` it is like another project's runtime."""
    server = grpc.aio.server()
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(FakeRuntime(world), server)
    api_pb2_grpc.add_ImageServiceServicer_to_server(FakeImages(world), server)
    if node:
        node_pb2_grpc.add_NodeServicer_to_server(FakeNode(world), server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    return server
