"""The fake runtime with the volumes of crib's Node service: directories of the test, and what was asked."""

# ruff: noqa: N802  # names are the service's own; the directories are the test's

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio

from crib.stubs.node.v1 import node_pb2 as node
from crib.stubs.node.v1 import node_pb2_grpc
from crib.stubs.runtime.v1 import api_pb2_grpc
from tests.unit.client.fake_runtime import FakeImages, FakeNode, FakeRuntime, World


@dataclass
class VolumeWorld(World):
    """What the fake keeps, and what it was asked."""

    directory: str = ""
    """Where volumes are."""
    volumes: dict[str, node.Volume] = field(default_factory=dict)
    """By NAMESPACE/NAME."""
    snapshots: dict[str, node.VolumeSnapshot] = field(default_factory=dict)
    publications: list[node.PublishVolumesRequest] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Told of each volume that is made."""
    usages: dict[str, node.VolumeUsage] = field(default_factory=dict)
    findings: list[node.Finding] = field(default_factory=list)
    checks: list[node.CheckVolumesRequest] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    drivers: list[node.VolumeDriver] = field(default_factory=list)
    gives_group: bool = False
    """Whether the maker of volumes gives their files to the pod's group."""
    stuck: str = ""
    """Why no volume can be taken from a pod."""
    taking: Callable[[], object] = lambda: None
    """Is called when a pod's volumes are to be taken from it."""

    def add_volume(self, label: str, **spec: Any) -> node.Volume:
        """One that is there already."""
        namespace, _, name = label.partition("/")
        asked = node.VolumeSpec(**spec)
        asked.kind = asked.kind or "local"
        made = node.Volume(
            id=f"{len(self.volumes) + 1:032x}",
            namespace=namespace,
            name=name,
            spec=asked,
            state="ready",
            capacity=asked.capacity,
            created_at=10**9,
        )
        self.volumes[label] = made
        os.makedirs(f"{self.directory}/{made.id}", exist_ok=True)
        return made

    def use(self, volume: node.Volume, uid: str, name: str) -> node.VolumeUse:
        """A pod's use of it, as it is told."""
        for use in volume.uses:
            if (use.pod_uid, use.volume) == (uid, name):
                return use
        path = f"{self.directory}/{volume.id}"
        return volume.uses.add(
            pod_uid=uid,
            volume=name,
            pod_name=f"pod-{uid}",
            path=path,
            state="published",
            read_only=list(volume.spec.access_modes) == ["ReadOnlyMany"],
        )


class FakeVolumeNode(FakeNode):
    world: VolumeWorld

    async def _missing(self, name: str, context: Any) -> NoReturn:
        await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no volume {name!r}")
        raise AssertionError

    async def _find(self, text: str, context: Any) -> node.Volume:
        label = text if "/" in text else f"default/{text}"
        return self.world.volumes.get(label) or await self._missing(text, context)

    async def CreateVolume(self, request: Any, context: Any) -> node.CreateVolumeResponse:
        made = self.world.add_volume(f"{request.namespace}/{request.name}")
        made.spec.MergeFrom(request.spec)
        return node.CreateVolumeResponse(volume=made, warnings=self.world.warnings)

    async def RemoveVolume(self, request: Any, context: Any) -> node.RemoveVolumeResponse:
        found = await self._find(request.volume, context)
        if found.uses:
            words = f"volume {found.namespace}/{found.name} is used by pod {found.uses[0].pod_name}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, words)
        del self.world.volumes[f"{found.namespace}/{found.name}"]
        return node.RemoveVolumeResponse()

    async def ListVolumes(self, request: Any, context: Any) -> AsyncIterator[node.Volume]:
        for label, volume in sorted(self.world.volumes.items()):
            uses = [use for use in volume.uses if request.pod_uid in ("", use.pod_uid)]
            is_named = request.namespace in ("", label.partition("/")[0])
            has_labels = request.labels.items() <= volume.spec.labels.items()
            if is_named and has_labels and (uses or not request.pod_uid):
                yield volume

    async def InspectVolume(self, request: Any, context: Any) -> node.InspectVolumeResponse:
        found = await self._find(request.volume, context)
        of_it = [one for one in self.world.snapshots.values() if one.volume_id == found.id]
        return node.InspectVolumeResponse(volume=found, snapshots=of_it, can=["snapshots"])

    async def PublishVolumes(self, request: Any, context: Any) -> node.PublishVolumesResponse:
        self.world.publications.append(request)
        self.world.calls.append("PublishVolumes")
        told = []
        for wanted in request.volumes:
            label = f"{request.pod_namespace}/{wanted.name}"
            is_new = label not in self.world.volumes
            if is_new:
                self.world.add_volume(label).spec.MergeFrom(wanted.spec)
            volume = self.world.volumes[label]
            use = self.world.use(volume, request.pod_uid, wanted.volume)
            told.append(
                node.PublishedVolume(
                    volume=wanted.volume,
                    volume_id=volume.id,
                    path=use.path,
                    block=volume.spec.block,
                    read_only=use.read_only,
                    kind=volume.spec.kind,
                    has_group=self.world.gives_group and request.HasField("fs_group"),
                    created=is_new,
                    warnings=self.world.warnings,
                )
            )
        return node.PublishVolumesResponse(volumes=told)

    async def UnpublishVolumes(self, request: Any, context: Any) -> node.UnpublishVolumesResponse:
        self.world.calls.append("UnpublishVolumes")
        self.world.taking()
        if self.world.stuck:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.world.stuck)
        removed = []
        for label, volume in list(self.world.volumes.items()):
            others = [use for use in volume.uses if use.pod_uid != request.pod_uid]
            del volume.uses[:]
            volume.uses.extend(others)
            if volume.spec.owner == request.pod_uid:
                removed.append(label)
                del self.world.volumes[label]
        return node.UnpublishVolumesResponse(removed=removed)

    async def ResizeVolume(self, request: Any, context: Any) -> node.ResizeVolumeResponse:
        found = await self._find(request.volume, context)
        found.capacity = request.capacity
        return node.ResizeVolumeResponse(volume=found)

    async def GetVolumeUsage(self, request: Any, context: Any) -> node.GetVolumeUsageResponse:
        found = await self._find(request.volume, context)
        return node.GetVolumeUsageResponse(usage=self.world.usages.get(found.name))

    async def SnapshotVolume(self, request: Any, context: Any) -> node.SnapshotVolumeResponse:
        found = await self._find(request.volume, context)
        made = node.VolumeSnapshot(
            id=f"{len(self.world.snapshots) + 1:032x}",
            namespace=found.namespace,
            name=request.name,
            volume_id=found.id,
            volume_name=found.name,
            kind=found.spec.kind,
            state="ready",
            usable=True,
            size=4096,
        )
        self.world.calls.append(f"SnapshotVolume {found.name} {request.name}")
        self.world.snapshots[f"{made.namespace}/{made.name}"] = made
        return node.SnapshotVolumeResponse(snapshot=made)

    async def ListVolumeSnapshots(self, request: Any, context: Any) -> AsyncIterator[node.VolumeSnapshot]:
        for one in self.world.snapshots.values():
            if request.namespace in ("", one.namespace):
                yield one

    async def RemoveVolumeSnapshot(self, request: Any, context: Any) -> node.RemoveVolumeSnapshotResponse:
        self.world.calls.append(f"RemoveVolumeSnapshot {request.snapshot}")
        label = request.snapshot if "/" in request.snapshot else f"default/{request.snapshot}"
        if self.world.snapshots.pop(label, None) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no snapshot {request.snapshot!r}")
        return node.RemoveVolumeSnapshotResponse()

    async def ExportVolume(self, request: Any, context: Any) -> node.ExportVolumeResponse:
        await self._find(request.volume, context)
        self.world.copies.append(request.path)
        return node.ExportVolumeResponse(size_bytes=10240)

    async def ImportVolume(self, request: Any, context: Any) -> node.ImportVolumeResponse:
        made = self.world.add_volume(f"{request.namespace}/{request.name}")
        made.spec.MergeFrom(request.spec)
        self.world.copies.append(request.path)
        return node.ImportVolumeResponse(volume=made, size_bytes=5, warnings=self.world.warnings)

    async def PruneVolumes(self, request: Any, context: Any) -> AsyncIterator[node.PrunedVolume]:
        for label, volume in sorted(self.world.volumes.items()):
            if request.all and not volume.uses:
                if not request.dry_run:
                    del self.world.volumes[label]
                yield node.PrunedVolume(volume=label, reason="no pod uses it", removed=True)

    async def CheckVolumes(self, request: Any, context: Any) -> AsyncIterator[node.Finding]:
        self.world.checks.append(request)
        for finding in self.world.findings:
            yield finding

    async def ListVolumeDrivers(self, request: Any, context: Any) -> node.ListVolumeDriversResponse:
        return node.ListVolumeDriversResponse(drivers=self.world.drivers)


async def serve_volumes(path: str, world: VolumeWorld) -> grpc.aio.Server:
    """Start it at a socket."""
    server = grpc.aio.server()
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(FakeRuntime(world), server)
    api_pb2_grpc.add_ImageServiceServicer_to_server(FakeImages(world), server)
    node_pb2_grpc.add_NodeServicer_to_server(FakeVolumeNode(world), server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    return server
