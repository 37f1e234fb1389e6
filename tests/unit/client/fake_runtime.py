"""The fake runtime of `crib.testing` with crib's Node service, streams, and what crib's own tests ask about.

A container whose command is `exit N` ends at its start with that code, after writing a line to its log; one
whose command is `fail` cannot be started. Everything else runs until it is stopped.
"""

# ruff: noqa: N802, ASYNC230  # names are the service's own; the log is a few bytes

from __future__ import annotations

import asyncio
import json
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
from crib.testing import FakeWorld
from crib.testing.services import FakeImageService, FakeRuntimeService
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


class Calls(list[str]):
    """Names of calls, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def append(self, name: str) -> None:
        super().append(name)
        self._news.set()

    async def heard(self, name: str) -> None:
        """Returns when there was a call of this name. The caller bounds it."""
        while name not in self:
            self._news.clear()
            await self._news.wait()


@dataclass
class World(FakeWorld):
    """What the fake holds; tests look at it and change it."""

    calls: Calls = field(default_factory=Calls)
    stop_timeouts: list[int] = field(default_factory=list)
    stop_code: int | None = None
    """With which containers end that are stopped, unless it is that of the signal."""
    stopped: list[str] = field(default_factory=list)
    """Ids of the containers of StopContainer, in that order."""
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
    pod_updates: dict[str, list[cri.LinuxContainerResources]] = field(default_factory=dict)
    """By the pod's id."""
    refuses_updates: bool = False
    used_bytes: list[int] = field(default_factory=list)
    """Of the disk, for each question; 0 after the last."""
    image_infos: dict[str, str] = field(default_factory=dict)
    """Of an image's verbose status, by its id."""
    running_pulls: set[str] = field(default_factory=set)
    """Names of images that somebody is pulling: what `crib pull --watch` finds."""

    def __post_init__(self) -> None:
        network = cri.RuntimeCondition(type="NetworkReady", reason="NoConfig", message="no \x1b[31mnetwork")
        self.conditions = [cri.RuntimeCondition(type="RuntimeReady", status=True), network]


class FakeRuntime(FakeRuntimeService):
    world: World

    async def Version(self, request: Any, context: Context) -> cri.VersionResponse:
        self.world.version_calls += 1
        if self.world.version_gate is not None:
            await self.world.version_gate.wait()
        return await super().Version(request, context)

    async def RunPodSandbox(self, request: Any, context: Context) -> cri.RunPodSandboxResponse:
        self.world.calls.append("RunPodSandbox")
        if request.runtime_handler == "missing":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "runtime_handler: no handler missing")
        if self.world.sandbox_gate is not None:
            await self.world.sandbox_gate.wait()
        return await super().RunPodSandbox(request, context)

    async def StopPodSandbox(self, request: Any, context: Context) -> cri.StopPodSandboxResponse:
        self.world.calls.append("StopPodSandbox")
        return await super().StopPodSandbox(request, context)

    async def RemovePodSandbox(self, request: Any, context: Context) -> cri.RemovePodSandboxResponse:
        self.world.calls.append("RemovePodSandbox")
        return await super().RemovePodSandbox(request, context)

    async def PodSandboxStatus(self, request: Any, context: Context) -> cri.PodSandboxStatusResponse:
        reply = await super().PodSandboxStatus(request, context)
        if request.verbose:
            reply.info["info"] = self._info(reply.info["info"], self.world.configs.get(reply.status.id))
            if updates := self.world.pod_updates.get(reply.status.id):
                told = {**json.loads(reply.info["info"]), "resources": plain(updates[-1])}
                reply.info["info"] = json.dumps(told)
        return reply

    async def UpdatePodSandboxResources(
        self, request: Any, context: Context
    ) -> cri.UpdatePodSandboxResourcesResponse:
        self.world.calls.append("UpdatePodSandboxResources")
        self.world.pod_updates.setdefault(request.pod_sandbox_id, []).append(request.resources)
        return cri.UpdatePodSandboxResourcesResponse()

    def _info(self, text: str, config: Any) -> str:
        """As crib's: what it was made from is in it, but for a runtime that does not tell."""
        if config is None or not self.world.tells_configs:
            return text
        return json.dumps({**json.loads(text), "config": plain(config)})

    async def CreateContainer(self, request: Any, context: Context) -> cri.CreateContainerResponse:
        self.world.calls.append(f"CreateContainer {request.config.metadata.name}")
        return await super().CreateContainer(request, context)

    async def StartContainer(self, request: Any, context: Context) -> cri.StartContainerResponse:
        container_id = request.container_id
        config = self.world.container_configs[container_id]
        self.world.calls.append(f"StartContainer {config.metadata.name}")
        if list(config.command[:1]) == ["fail"]:
            await context.abort(grpc.StatusCode.INTERNAL, "crun start: no such file")
        started = await super().StartContainer(request, context)
        if list(config.command[:1]) == ["exit"]:
            with open(self.world.log_path(container_id), "w", encoding="utf-8") as log:
                log.write("2026-01-02T03:04:05.000000001Z stderr P something is \n")
                log.write("2026-01-02T03:04:05.000000002Z stderr F wrong\x1b[2J\x9b\n")
            asyncio.get_running_loop().call_later(
                0.01, self.world.exited, container_id, int(config.command[1])
            )
        return started

    async def StopContainer(self, request: Any, context: Context) -> cri.StopContainerResponse:
        self.world.calls.append("StopContainer")
        self.world.stop_timeouts.append(request.timeout)
        self.world.stopped.append(request.container_id)
        if self.world.stop_code is not None:
            self.world.exited(request.container_id, self.world.stop_code)
            return cri.StopContainerResponse()
        return await super().StopContainer(request, context)

    async def ContainerStatus(self, request: Any, context: Context) -> cri.ContainerStatusResponse:
        reply = await super().ContainerStatus(request, context)
        if request.verbose:
            config = self.world.container_configs.get(reply.status.id)
            reply.info["info"] = self._info(reply.info["info"], config)
        return reply

    async def UpdateContainerResources(
        self, request: Any, context: Context
    ) -> cri.UpdateContainerResourcesResponse:
        self.world.calls.append("UpdateContainerResources")
        if self.world.refuses_updates:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "more is in use")
        self.world.updates.append(request.linux)
        return await super().UpdateContainerResources(request, context)

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


async def _lab(world: World, context: Context) -> Lab:
    if world.lab is None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")
    assert world.lab is not None
    return world.lab


class FakeImages(FakeImageService):
    world: World

    async def ImageStatus(self, request: Any, context: Context) -> cri.ImageStatusResponse:
        status = await super().ImageStatus(request, context)
        if request.verbose and status.HasField("image"):
            status.info["info"] = self.world.image_infos.get(status.image.id, "{}")
        return status

    async def PullImage(self, request: Any, context: Context) -> cri.PullImageResponse:
        name = request.image.image
        self.world.calls.append(f"PullImage {name}")
        self.world.pull_requests.append(request)
        if "missing" in name:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no image {name} in the registry")
        return await super().PullImage(request, context)

    async def ImageFsInfo(self, request: Any, context: Context) -> cri.ImageFsInfoResponse:
        used = self.world.used_bytes.pop(0) if self.world.used_bytes else 0
        place = cri.FilesystemUsage(used_bytes=cri.UInt64Value(value=used))
        return cri.ImageFsInfoResponse(image_filesystems=[place])

    async def RemoveImage(self, request: Any, context: Context) -> cri.RemoveImageResponse:
        self.world.calls.append(f"RemoveImage {request.image.image}")
        return await super().RemoveImage(request, context)


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
