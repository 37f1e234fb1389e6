"""Volumes of kind `image`: the files of an image or OCI artifact, read-only, from its layers on disk.

The record holds the image and its layers (`VolumeRecord.layers`), so nobody removes them meanwhile, and a tag
that moves changes nothing. All pods of a volume share one mount.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from crib.backends.environment import SharedLayers
from crib.backends.failures import foreign, trying
from crib.backends.volumes import disks
from crib.backends.volumes.measures import MAX_COUNTED
from crib.host import files, mounts
from crib.host.directories import make_directory
from crib.host.threads import Job
from crib.model.errors import CribError, InvalidRequest, WrongState
from crib.model.facts import Readiness
from crib.model.finding import Finding
from crib.model.paths import Paths
from crib.model.volumes import (
    SnapshotRecord,
    StageState,
    VolumePaths,
    VolumeRecord,
    VolumeSpec,
    VolumeUsage,
    VolumeUse,
)
from crib.ports.volumes import KindFacts, Made, MadeSnapshot

T = TypeVar("T")

STEP_SECONDS = 30.0
COUNT_SECONDS = 600.0
"""To count the files of an image."""


class ImageVolumes:
    """All of them."""

    def __init__(self, paths: Paths, layers: SharedLayers, label: str = "") -> None:
        """`label`: of SELinux, for files that every container may read; empty: the node has no SELinux."""
        self._paths = paths
        self._layers = layers
        self._label = label

    async def readiness(self, driver: str = "") -> Readiness:
        return Readiness(ready=True)

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        return KindFacts(sizes="an image has the size that it has", writable=False)

    async def check_spec(self, spec: VolumeSpec) -> None:
        if not spec.source:
            raise InvalidRequest("kind image needs the name of an image", field="source")
        for field in ("parameters", "fs_type", "mount_options"):
            if getattr(spec, field):
                raise InvalidRequest("kind image has none", field=field)

    async def create(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> Made:
        """Nothing is made; but its layers can be mounted."""
        await self._layers.acquire(record.layers)
        return Made()

    async def clone(self, record: VolumeRecord, source: VolumeRecord) -> Made:
        raise WrongState("kind image has no clones")

    async def delete(self, record: VolumeRecord) -> None:
        await self.unstage(record)

    async def stage(self, record: VolumeRecord) -> Mapping[str, str]:
        layers = await self._layers.acquire(record.layers)
        await self._step(
            record, "mounting its layers", _mount, tuple(layers), self._stage(record), self._label
        )
        return {}

    async def unstage(self, record: VolumeRecord) -> None:
        await self._step(record, "unmounting it", disks.unmount, self._stage(record))

    async def publish(self, record: VolumeRecord, use: VolumeUse) -> str:
        stage = self._stage(record)
        if not await self._step(record, "looking for its mount", mounts.is_mountpoint, stage):
            raise WrongState(f"nothing is mounted at {stage}")
        return stage

    async def unpublish(self, record: VolumeRecord, use: VolumeUse) -> None:
        """Nothing was made for a pod."""

    async def usage(self, record: VolumeRecord) -> VolumeUsage:
        """What the files of all its layers take, also those that a higher layer hides; nothing is free."""
        layers = await self._layers.acquire(record.layers)
        held = await self._step(record, "measuring it", _measured, layers, seconds=COUNT_SECONDS)
        return VolumeUsage(held.bytes, 0, held.bytes, held.inodes, 0, held.inodes)

    async def expand(self, record: VolumeRecord, capacity: int) -> int:
        raise WrongState("an image does not grow")

    async def snapshot(self, record: VolumeRecord, snapshot: SnapshotRecord) -> MadeSnapshot:
        raise WrongState("kind image has no snapshots")

    async def delete_snapshot(self, snapshot: SnapshotRecord) -> None:
        """There never is one."""

    async def check(self, record: VolumeRecord) -> Sequence[Finding]:
        subject = str(record.name)
        try:
            await self._layers.acquire(record.layers)
        except CribError as error:
            return [Finding("volumes", subject, f"its layers cannot be mounted: {error}")]
        stage = self._stage(record)
        if record.stage is not StageState.STAGED or await self._step(
            record, "looking for its mount", mounts.is_mountpoint, stage
        ):
            return []
        return [Finding("volumes", subject, f"nothing is mounted at {stage}", "it is mounted again")]

    def _stage(self, record: VolumeRecord) -> str:
        return VolumePaths(self._paths, record.id).stage

    async def _step(
        self,
        record: VolumeRecord,
        what: str,
        work: Callable[..., T],
        *args: object,
        seconds: float = STEP_SECONDS,
    ) -> T:
        with trying(what):
            return await foreign(Job(f"volume {record.name}: {what}", record.id, seconds), work, *args)


def _measured(layers: Sequence[str]) -> files.DiskUsage:
    # Layer by layer: in a read-only overlay files are on other devices than directories.
    held = [files.disk_usage(layer, MAX_COUNTED) for layer in layers]
    return files.DiskUsage(sum(each.bytes for each in held), sum(each.inodes for each in held))


def _mount(layers: Sequence[str], target: str, label: str) -> None:
    make_directory(target, 0o755)
    if mounts.is_mountpoint(target):
        return
    # Overlayfs wants two lower directories: the other one is the mount point itself, which is empty.
    lower = tuple(reversed(layers)) if len(layers) > 1 else (*layers, target)
    mounts.perform(mounts.Overlay(target, lower, read_only=True, context=label))
