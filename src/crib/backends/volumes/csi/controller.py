"""The half of a driver that makes volumes and attaches them to nodes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message

from crib.backends.volumes.csi.calls import (
    CONTROLLER_EXPAND,
    CONTROLLER_PUBLISH,
    CONTROLLER_UNPUBLISH,
    CREATE_SNAPSHOT,
    CREATE_VOLUME,
    DELETE_SNAPSHOT,
    DELETE_VOLUME,
    VALIDATE,
)
from crib.backends.volumes.csi.channel import BAD_ANSWER, DriverCall, DriverFailed
from crib.backends.volumes.csi.driver import FIRST_PAUSE, LEAST_SECONDS, LONGEST_PAUSE, OPEN, Driver
from crib.backends.volumes.csi.driver_facts import MAX_MAP, MAX_TEXT, DriverFacts
from crib.backends.volumes.csi.errands import Errand
from crib.backends.volumes.csi.notes import ATTACHMENT, CREATION, DriverNotes
from crib.backends.volumes.csi.requests import (
    capability,
    context_of,
    creation,
    is_here,
    reads_only,
    snapshot_name,
)
from crib.model.errors import NotBuilt
from crib.model.volumes import SnapshotRecord, VolumeRecord
from crib.ports.volumes import Made, MadeSnapshot
from crib.stubs.csi.v1 import csi_pb2 as pb

A = TypeVar("A", bound=Message)
R = TypeVar("R", pb.CreateVolumeRequest, pb.CreateSnapshotRequest)
_log = logging.getLogger(__name__)

_MAY_BE_THERE = OPEN | {BAD_ANSWER, "ALREADY_EXISTS", "PERMISSION_DENIED", "UNAUTHENTICATED"}
"""Codes of a repeated CreateVolume or CreateSnapshot that leave open whether the first has made something.
Of all others nothing is there (as Kubernetes' provisioner has it)."""


COPY_SECONDS = 24 * 3600.0
"""For a volume that begins as something else, of which its driver may copy all. Verbs end that earlier."""


class ControllerHalf:
    """What one driver's controller does for a volume or snapshot, by an errand."""

    def __init__(self, driver: Driver, errand: Errand) -> None:
        self._driver = driver
        self._errand = errand

    async def create(
        self,
        record: VolumeRecord,
        origin: SnapshotRecord | VolumeRecord | None,
        facts: DriverFacts,
        notes: DriverNotes,
    ) -> Made:
        """Make it as `origin` is, or empty."""
        if not facts.creates:
            raise NotBuilt(f"driver {facts.name} makes no volumes: name one that it has as the source")
        if isinstance(origin, SnapshotRecord) and not facts.snapshots:
            raise NotBuilt(f"driver {facts.name} makes no volumes from snapshots", field="snapshot")
        if isinstance(origin, VolumeRecord) and not facts.clones:
            raise NotBuilt(f"driver {facts.name} clones no volumes", field="clone_of")
        request = await notes.read(CREATION, pb.CreateVolumeRequest)
        if request is None:
            request = creation(record, origin, facts)
            await notes.write(CREATION, request)
        request.secrets.update(self._errand.secrets)
        begun = self._errand if origin is None else self._errand.longer(COPY_SECONDS)
        made = (await self._driver.ask(CREATE_VOLUME, request, begun)).volume
        if problem := _wrong_volume(request, made, facts):
            raise self._driver.bad(CREATE_VOLUME, problem, self._errand)
        return Made(made.volume_id, dict(made.volume_context), made.capacity_bytes)

    async def delete(self, handle: str, notes: DriverNotes) -> None:
        """`handle`: empty where it is not known what was made, or whether."""
        if not handle:
            made = await self._again(CREATE_VOLUME, pb.CreateVolumeRequest, notes)
            handle = "" if made is None else self._named(CREATE_VOLUME, made.volume.volume_id)
        if handle:
            request = pb.DeleteVolumeRequest(volume_id=handle, secrets=self._errand.secrets)
            await self._undo(DELETE_VOLUME, request)
        await notes.drop(CREATION)

    async def _again(self, one: DriverCall[A], kind: type[R], notes: DriverNotes) -> A | None:
        """The call by which something was made, whose answer got lost: it says again what that is.

        None where the driver says that it has made nothing, or was never asked.
        """
        request = await notes.read(CREATION, kind)
        if request is None:
            return None
        request.secrets.update(self._errand.secrets)
        try:
            return await self._driver.answer(one, request, self._errand)
        except DriverFailed as failure:
            error = self._driver.error(one, failure, self._errand)
            if failure.code in _MAY_BE_THERE:
                raise error from None
            _log.info("%s: so there is nothing to remove", error)
            return None

    def _named(self, one: DriverCall[A], handle: str) -> str:
        if not handle:
            raise self._driver.bad(one, "its answer has no id", self._errand)
        return handle

    async def _undo(self, one: DriverCall[A], request: Message) -> None:
        """What is not there counts as undone."""
        try:
            await self._driver.answer(one, request, self._errand)
        except DriverFailed as failure:
            if failure.code != "NOT_FOUND":
                raise self._driver.error(one, failure, self._errand) from None

    async def attach(self, record: VolumeRecord, facts: DriverFacts, notes: DriverNotes) -> dict[str, str]:
        """To this node; what the driver wants to be told when the volume is staged and published.

        It outlives a boot, after which nothing is staged: so it is noted what undoes it.
        """
        undoing = pb.ControllerUnpublishVolumeRequest(volume_id=record.handle, node_id=facts.node_id)
        await notes.write(ATTACHMENT, undoing)
        request = pb.ControllerPublishVolumeRequest(
            volume_id=record.handle,
            node_id=facts.node_id,
            volume_capability=capability(record.spec, facts),
            readonly=reads_only(record.spec) and "PUBLISH_READONLY" in facts.controller,
            secrets=self._errand.secrets,
            volume_context=context_of(record),
        )
        answer = await self._driver.ask(CONTROLLER_PUBLISH, request, self._errand)
        if _size(answer.publish_context) > MAX_MAP:
            raise self._driver.bad(CONTROLLER_PUBLISH, "its publish_context is too long", self._errand)
        return dict(answer.publish_context)

    async def detach(self, notes: DriverNotes) -> None:
        """If it is attached."""
        request = await notes.read(ATTACHMENT, pb.ControllerUnpublishVolumeRequest)
        if request is not None:
            request.secrets.update(self._errand.secrets)
            await self._driver.ask(CONTROLLER_UNPUBLISH, request, self._errand)
            await notes.drop(ATTACHMENT)

    async def validate(self, record: VolumeRecord, handle: str, facts: DriverFacts) -> str:
        """Why the volume cannot be used as its record says; empty: it can. NotFound."""
        request = pb.ValidateVolumeCapabilitiesRequest(
            volume_id=handle,
            volume_context=context_of(record),
            volume_capabilities=[capability(record.spec, facts)],
            secrets=self._errand.secrets,
        )
        answer = await self._driver.ask(VALIDATE, request, self._errand)
        if answer.HasField("confirmed"):
            return ""
        return (
            self._errand.hiding(answer.message[:MAX_TEXT]) or "the driver does not confirm its access modes"
        )

    async def expand(self, record: VolumeRecord, capacity: int, facts: DriverFacts) -> tuple[int, bool]:
        """Bytes that it has then, and whether the node has to do its part."""
        request = pb.ControllerExpandVolumeRequest(
            volume_id=record.handle,
            capacity_range=pb.CapacityRange(required_bytes=capacity),
            secrets=self._errand.secrets,
            volume_capability=capability(record.spec, facts),
        )
        answer = await self._driver.ask(CONTROLLER_EXPAND, request, self._errand)
        if answer.capacity_bytes < capacity:
            problem = f"it has {answer.capacity_bytes} bytes, of {capacity} that were asked for"
            raise self._driver.bad(CONTROLLER_EXPAND, problem, self._errand)
        return answer.capacity_bytes, answer.node_expansion_required

    async def snapshot(self, handle: str, snapshot: SnapshotRecord, notes: DriverNotes) -> MadeSnapshot:
        """Asked again until the driver has finished it, or the time is over."""
        request = await notes.read(CREATION, pb.CreateSnapshotRequest)
        if request is None:
            request = pb.CreateSnapshotRequest(source_volume_id=handle, name=snapshot_name(snapshot.id))
            await notes.write(CREATION, request)
        request.secrets.update(self._errand.secrets)
        pause = FIRST_PAUSE
        while True:
            made = (await self._driver.ask(CREATE_SNAPSHOT, request, self._errand)).snapshot
            if problem := _wrong_snapshot(request, made):
                raise self._driver.bad(CREATE_SNAPSHOT, problem, self._errand)
            if made.ready_to_use or self._errand.left - pause < LEAST_SECONDS:
                return MadeSnapshot(made.snapshot_id, made.size_bytes, made.ready_to_use)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def delete_snapshot(self, handle: str, notes: DriverNotes) -> None:
        """`handle`: empty where it is not known what was made, or whether."""
        if not handle:
            made = await self._again(CREATE_SNAPSHOT, pb.CreateSnapshotRequest, notes)
            handle = "" if made is None else self._named(CREATE_SNAPSHOT, made.snapshot.snapshot_id)
        if handle:
            request = pb.DeleteSnapshotRequest(snapshot_id=handle, secrets=self._errand.secrets)
            await self._undo(DELETE_SNAPSHOT, request)
        await notes.drop(CREATION)


def _size(context: Mapping[str, str]) -> int:
    return sum(len(key) + len(value) for key, value in context.items())


def _wrong_volume(request: pb.CreateVolumeRequest, made: pb.Volume, facts: DriverFacts) -> str:
    """What is wrong with a volume that was made; empty: nothing."""
    wanted = request.capacity_range.required_bytes
    if not made.volume_id or len(made.volume_id) > MAX_TEXT:
        return "its volume_id is empty or too long"
    if _size(made.volume_context) > MAX_MAP:
        return "its volume_context is too long"
    if 0 < made.capacity_bytes < wanted:
        return f"the volume has {made.capacity_bytes} bytes, of {wanted} that were asked for"
    if request.HasField("volume_content_source") and made.content_source != request.volume_content_source:
        return "it does not say that the volume was made from the snapshot or volume that was named"
    if not is_here(made, facts):
        return "the volume cannot be had on this node"
    return ""


def _wrong_snapshot(request: pb.CreateSnapshotRequest, made: pb.Snapshot) -> str:
    if not made.snapshot_id or len(made.snapshot_id) > MAX_TEXT:
        return "its snapshot_id is empty or too long"
    if made.source_volume_id != request.source_volume_id:
        return "it is the snapshot of another volume"
    return "" if made.size_bytes >= 0 else "its size is negative"
