"""Volumes of kind `tmpfs`: memory that the pods of a volume share, for as long as one of them has it.

What they write is charged to the container that wrote it (kernel, admin-guide/cgroup-v2, Memory Ownership).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from crib.backends.failures import ours, trying
from crib.backends.volumes.local import MODE, mode_of
from crib.backends.volumes.measures import filesystem_usage
from crib.host import libc, mounts
from crib.host.directories import make_directory
from crib.host.threads import Job
from crib.model.errors import InvalidRequest, WrongState
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
NO_EXEC = "noexec"
"""The one mount option; set-uid programs and device nodes never do anything here."""


class TmpfsVolumes:
    """All of them."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    async def readiness(self, driver: str = "") -> Readiness:
        return Readiness(ready=True)

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        return KindFacts(lasting=False, expands=True)

    async def check_spec(self, spec: VolumeSpec) -> None:
        for name in spec.parameters:
            if name != MODE:
                raise InvalidRequest(f"kind tmpfs knows {MODE} only", field=f"parameters.{name}")
        mode_of(spec)
        for field in ("source", "fs_type"):
            if getattr(spec, field):
                raise InvalidRequest("kind tmpfs has none: it is memory", field=field)
        if unknown := set(spec.mount_options) - {NO_EXEC}:
            raise InvalidRequest(f"{min(unknown)!r} is not {NO_EXEC}", field="mount_options")

    async def create(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> Made:
        return Made(capacity=record.spec.capacity or usual_size())

    async def clone(self, record: VolumeRecord, source: VolumeRecord) -> Made:
        raise WrongState("kind tmpfs has no clones")

    async def delete(self, record: VolumeRecord) -> None:
        await self._step(record, "removing its directory", _release, self._stage(record))

    async def stage(self, record: VolumeRecord) -> Mapping[str, str]:
        await self._step(record, "mounting it", _mount, self._tmpfs(record, record.capacity))
        return {}

    async def unstage(self, record: VolumeRecord) -> None:
        await self._step(record, "unmounting it", _release, self._stage(record))

    async def publish(self, record: VolumeRecord, use: VolumeUse) -> str:
        stage = self._stage(record)
        if not await self._step(record, "looking for its mount", mounts.is_mountpoint, stage):
            raise WrongState(f"nothing is mounted at {stage}")
        return stage

    async def unpublish(self, record: VolumeRecord, use: VolumeUse) -> None:
        """Nothing was made for a pod."""

    async def usage(self, record: VolumeRecord) -> VolumeUsage:
        if record.stage is not StageState.STAGED:
            return VolumeUsage(total=record.capacity, available=record.capacity, used=0)
        return await self._step(record, "measuring it", filesystem_usage, self._stage(record))

    async def expand(self, record: VolumeRecord, capacity: int) -> int:
        if record.stage is StageState.STAGED:
            await self._step(record, "making it larger", _enlarge, self._tmpfs(record, capacity))
        return capacity

    async def snapshot(self, record: VolumeRecord, snapshot: SnapshotRecord) -> MadeSnapshot:
        raise WrongState("kind tmpfs has no snapshots")

    async def delete_snapshot(self, snapshot: SnapshotRecord) -> None:
        """There never is one."""

    async def check(self, record: VolumeRecord) -> Sequence[Finding]:
        if record.stage is not StageState.STAGED:
            return []
        stage = self._stage(record)
        if await self._step(record, "looking for its mount", mounts.is_mountpoint, stage):
            return []
        text = f"nothing is mounted at {stage}: what was in it is lost"
        return [
            Finding("volumes", str(record.name), text, "an empty one is mounted, for pods that are run next")
        ]

    def _tmpfs(self, record: VolumeRecord, size: int) -> mounts.Tmpfs:
        no_exec = NO_EXEC in record.spec.mount_options
        return mounts.Tmpfs(self._stage(record), size, mode_of(record.spec), no_exec=no_exec)

    def _stage(self, record: VolumeRecord) -> str:
        return VolumePaths(self._paths, record.id).stage

    async def _step(self, record: VolumeRecord, what: str, work: Callable[..., T], *args: object) -> T:
        with trying(what):
            return await ours(Job(f"volume {record.name}: {what}", record.id, STEP_SECONDS), work, *args)


def usual_size() -> int:
    """Half of the memory, which is the kernel's own choice (tmpfs(5), size)."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _mount(mount: mounts.Tmpfs) -> None:
    make_directory(mount.target, 0o755)
    if not mounts.is_mountpoint(mount.target):
        mounts.perform(mount)


def _enlarge(mount: mounts.Tmpfs) -> None:
    """A remount sets the mount's attributes anew as well (mount(2), MS_REMOUNT)."""
    flags = libc.MS_REMOUNT | libc.MS_NOSUID | libc.MS_NODEV | (libc.MS_NOEXEC if mount.no_exec else 0)
    libc.mount("tmpfs", mount.target, "tmpfs", flags, f"size={mount.size_bytes}")


def _release(stage: str) -> None:
    """Unmount it: also where somebody still works in it, whose the memory then is until he ends."""
    if os.path.isdir(stage):
        mounts.unmount_tree(stage)
        os.rmdir(stage)
