"""Calls about volumes of pods without a kubelet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from crib.api.calls import Answer, Call, Parts, Stream, Verb
from crib.api.translate import volumes as translate
from crib.api.translate.upkeep import encode_finding
from crib.engine.node import Node
from crib.engine.volumes.making import VolumeOrder
from crib.engine.volumes.verbs import VolumeFilter
from crib.stubs.node.v1 import node_pb2 as pb


class VolumeCalls:
    """Those of crib.v1.Node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """By their names."""
        return {
            "CreateVolume": Verb(pb.CreateVolumeRequest, translate.decode_create, self._create),
            "RemoveVolume": Verb(pb.RemoveVolumeRequest, translate.decode_named, self._remove),
            "ListVolumes": Parts(pb.ListVolumesRequest, translate.decode_list, self._list),
            "InspectVolume": Verb(pb.InspectVolumeRequest, translate.decode_named, self._inspect),
            "PublishVolumes": Verb(pb.PublishVolumesRequest, translate.decode_publish, self._publish),
            "UnpublishVolumes": Verb(pb.UnpublishVolumesRequest, translate.decode_unpublish, self._unpublish),
            "ResizeVolume": Verb(pb.ResizeVolumeRequest, translate.decode_resize, self._resize),
            "GetVolumeUsage": Verb(pb.GetVolumeUsageRequest, translate.decode_named, self._usage),
            "SnapshotVolume": Verb(pb.SnapshotVolumeRequest, translate.decode_snapshot, self._snapshot),
            "ListVolumeSnapshots": Parts(
                pb.ListVolumeSnapshotsRequest, translate.decode_list_snapshots, self._snapshots
            ),
            "RemoveVolumeSnapshot": Verb(
                pb.RemoveVolumeSnapshotRequest, translate.decode_remove_snapshot, self._remove_snapshot
            ),
            "ExportVolume": Verb(pb.ExportVolumeRequest, translate.decode_export, self._export),
            "ImportVolume": Verb(pb.ImportVolumeRequest, translate.decode_import, self._import),
            "PruneVolumes": Stream(pb.PruneVolumesRequest, translate.decode_prune, self._prune),
            "CheckVolumes": Stream(pb.CheckVolumesRequest, translate.decode_check, self._check),
        }

    async def _create(self, order: VolumeOrder) -> Answer:
        return translate.encode_created(await self._node.volumes.create(order))

    async def _remove(self, text: str) -> Answer:
        await self._node.volumes.remove(text)
        return pb.RemoveVolumeResponse()

    def _list(self, wanted: VolumeFilter) -> Iterator[Answer]:
        return map(translate.encode_volume, self._node.volumes.list(wanted))

    async def _inspect(self, text: str) -> Answer:
        return translate.encode_inspected(*await self._node.volumes.inspect(text))

    async def _publish(self, order: translate.PublishOrder) -> Answer:
        return translate.encode_published(await self._node.volumes.publish(*order))

    async def _unpublish(self, uid: str) -> Answer:
        removed = await self._node.volumes.unpublish(uid)
        return pb.UnpublishVolumesResponse(removed=map(str, removed))

    async def _resize(self, wanted: tuple[str, int]) -> Answer:
        record = await self._node.volumes.resize(*wanted)
        return pb.ResizeVolumeResponse(volume=translate.encode_volume(record))

    async def _usage(self, text: str) -> Answer:
        return translate.encode_usage(await self._node.volumes.usage(text))

    async def _snapshot(self, wanted: tuple[str, str]) -> Answer:
        made = await self._node.volumes.snapshot(*wanted)
        return pb.SnapshotVolumeResponse(snapshot=translate.encode_snapshot(made))

    def _snapshots(self, namespace: str) -> Iterator[Answer]:
        return map(translate.encode_snapshot, self._node.volumes.snapshots(namespace))

    async def _remove_snapshot(self, text: str) -> Answer:
        await self._node.volumes.remove_snapshot(text)
        return pb.RemoveVolumeSnapshotResponse()

    async def _export(self, wanted: tuple[str, str]) -> Answer:
        return pb.ExportVolumeResponse(size_bytes=await self._node.volumes.export(*wanted))

    async def _import(self, wanted: tuple[VolumeOrder, str]) -> Answer:
        return translate.encode_imported(*await self._node.volumes.load(*wanted))

    async def _prune(self, wanted: tuple[bool, bool]) -> AsyncIterator[Answer]:
        everything, dry = wanted
        async for pruned in self._node.volumes.prune(everything=everything, dry=dry):
            yield translate.encode_pruned(pruned)

    async def _check(self, wanted: translate.CheckVolumes) -> AsyncIterator[Answer | None]:
        yield None  # the client may have long to wait for the first finding
        async for found in self._node.volumes.check(wanted.volumes, repair=wanted.repair):
            yield encode_finding(found)
