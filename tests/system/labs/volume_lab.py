"""Volumes of one kind, without a daemon: records as the verbs would keep them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from crib.host import mounts
from crib.host.loop_devices import detach_loop, find_loops
from crib.model.paths import Paths
from crib.model.volumes import (
    PodOfUse,
    SnapshotRecord,
    SnapshotState,
    StageState,
    VolumeName,
    VolumePaths,
    VolumeRecord,
    VolumeSpec,
    VolumeState,
    VolumeUse,
    new_snapshot_id,
    new_volume_id,
)
from crib.ports.volumes import VolumeKind


@dataclass
class VolumeLab:
    """Does what verbs do, in their order. `close` leaves nothing of what was made, whatever went wrong."""

    kind: VolumeKind
    paths: Paths
    made: list[VolumeRecord] = field(default_factory=list)

    async def new(
        self, spec: VolumeSpec, snapshot: SnapshotRecord | None = None, name: str = "data"
    ) -> VolumeRecord:
        await self.kind.check_spec(spec)
        record = self.record(spec, name)
        made = await self.kind.create(record, snapshot)
        return replace(
            record,
            state=VolumeState.READY,
            capacity=made.capacity,
            handle=made.handle,
            context=made.context,
        )

    def record(self, spec: VolumeSpec, name: str = "data") -> VolumeRecord:
        """Of a volume that is yet to be made."""
        record = VolumeRecord(new_volume_id(), VolumeName("default", name), spec, VolumeState.CREATING, 1)
        self.made.append(record)
        return record

    async def staged(self, record: VolumeRecord) -> VolumeRecord:
        attachment = await self.kind.stage(replace(record, stage=StageState.STAGING))
        return replace(record, stage=StageState.STAGED, attachment=attachment)

    async def unstaged(self, record: VolumeRecord) -> VolumeRecord:
        await self.kind.unstage(replace(record, stage=StageState.UNSTAGING))
        return replace(record, stage=StageState.UNSTAGED)

    async def snapshot(self, record: VolumeRecord, name: str = "kept") -> SnapshotRecord:
        kept = SnapshotRecord(
            new_snapshot_id(),
            VolumeName("default", name),
            record.id,
            record.name.name,
            record.spec,
            SnapshotState.CREATING,
            2,
        )
        made = await self.kind.snapshot(record, kept)
        return replace(
            kept, state=SnapshotState.READY, handle=made.handle, size=made.size, usable=made.usable
        )

    def of(self, record: VolumeRecord) -> VolumePaths:
        return VolumePaths(self.paths, record.id)

    def close(self) -> None:
        mounts.unmount_tree(self.paths.volume_mounts)
        for record in self.made:
            for path in (self.of(record).file, f"{self.of(record).file}.partial", record.spec.source):
                for device in find_loops(path) if path.startswith("/") else ():
                    detach_loop(device)


def use_by(pod: str, *, read_only: bool = False) -> VolumeUse:
    """A pod's use of a volume."""
    return VolumeUse(PodOfUse(f"uid-{pod}", "default", pod), "data", read_only)
