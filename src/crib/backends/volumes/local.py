"""Volumes of kind `local`: a directory each, which pods mount as it is. Nothing is mounted for it.

Its size is a limit where the data directory's file system has project quotas. A snapshot is a copy of all
files, made while pods go on: it is as after a power cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crib.backends.failures import foreign, trying
from crib.backends.volumes.measures import directory_usage
from crib.host import files, quotas
from crib.host.directories import make_directory
from crib.host.threads import Job
from crib.host.tree_copies import CopyBudget, CopyLimits, copy_tree
from crib.model.errors import InvalidRequest, WrongState
from crib.model.facts import Readiness
from crib.model.finding import Finding
from crib.model.paths import Paths
from crib.model.volumes import (
    SnapshotRecord,
    VolumePaths,
    VolumeRecord,
    VolumeSpec,
    VolumeUsage,
    VolumeUse,
    snapshot_path,
)
from crib.ports.volumes import KindFacts, Made, MadeSnapshot

T = TypeVar("T")

STEP_SECONDS = 30.0
"""For one look at the data directory: a disk that does not answer must not hold up a pod for longer."""
TREE_SECONDS = 1200.0
"""For what goes through all files of a volume, but a copy."""
COPY_SECONDS = 4 * 3600.0
COPY_ENTRIES = 100_000_000
MODE, QUOTA = "mode", "quota"
"""Parameters: mode of the directory in octal digits; `required` refuses sizes that are no limit."""
USUAL_MODE = 0o777
"""As of an emptyDir: any user of a pod may write."""
_PARTIAL = ".partial"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LIMIT = 1 << 62


class LocalVolumes:
    """All of them. Copies leave `min_free` bytes of the data directory's disk."""

    def __init__(self, paths: Paths, min_free: int = 0) -> None:
        self._paths = paths
        self._min_free = min_free
        self._sizes: str | None = None
        """Why sizes are no limits; None: nobody has looked yet."""

    async def readiness(self, driver: str = "") -> Readiness:
        return Readiness(ready=True)

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        sizes = await self._no_sizes()
        return KindFacts(
            sizes=sizes, expands=not sizes, snapshots=True, stages=False, call_limit=TREE_SECONDS
        )

    async def _no_sizes(self) -> str:
        if self._sizes is None:
            what = f"looking for project quotas at {self._paths.volumes}"
            with trying(what):
                offered = await foreign(
                    Job(what, self._paths.volumes, STEP_SECONDS), quotas.is_offered, self._paths.volumes
                )
            without = (
                f"the file system of {self._paths.volumes} has no project quotas (mount option prjquota)"
            )
            self._sizes = "" if offered else without
        return self._sizes

    async def check_spec(self, spec: VolumeSpec) -> None:
        for name, value in spec.parameters.items():
            if name not in (MODE, QUOTA):
                text = f"kind local knows {MODE} and {QUOTA} only"
                raise InvalidRequest(text, field=f"parameters.{name}")
            if name == MODE:
                mode_of(spec)
            elif value not in ("auto", "required"):
                raise InvalidRequest(f"{value!r} is not auto or required", field=f"parameters.{name}")
        for field in ("source", "fs_type", "mount_options"):
            if getattr(spec, field):
                raise InvalidRequest("kind local has none: it is a plain directory", field=field)
        if spec.parameters.get(QUOTA) == "required" and spec.capacity and (sizes := await self._no_sizes()):
            raise WrongState(f"a size cannot be a limit here: {sizes}", field="capacity")

    async def create(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> Made:
        limit = 0 if await self._no_sizes() else record.spec.capacity
        source = f"{snapshot_path(self._paths, snapshot.id)}/data" if snapshot is not None else ""
        wanted = _Wanted(self._data(record), source, mode_of(record.spec), limit)
        await self._step(record, "making its directory", _make, wanted, self._budget(), seconds=COPY_SECONDS)
        return Made(capacity=limit)

    async def clone(self, record: VolumeRecord, source: VolumeRecord) -> Made:
        raise WrongState("kind local has no clones")

    async def delete(self, record: VolumeRecord) -> None:
        await self._step(record, "removing its files", _remove, self._data(record), seconds=TREE_SECONDS)

    async def stage(self, record: VolumeRecord) -> Mapping[str, str]:
        return {}

    async def unstage(self, record: VolumeRecord) -> None:
        """There is nothing for all pods."""

    async def publish(self, record: VolumeRecord, use: VolumeUse) -> str:
        path = self._data(record)
        if not await self._step(record, "looking for its directory", os.path.isdir, path):
            raise WrongState(f"its directory {path} is not there")
        return path

    async def unpublish(self, record: VolumeRecord, use: VolumeUse) -> None:
        """Nothing was made for a pod."""

    async def usage(self, record: VolumeRecord) -> VolumeUsage:
        path = self._data(record)
        return await self._step(record, "measuring it", directory_usage, path, seconds=TREE_SECONDS)

    async def expand(self, record: VolumeRecord, capacity: int) -> int:
        await self._step(record, "setting its limit", quotas.set_limit, self._data(record), capacity)
        return capacity

    async def snapshot(self, record: VolumeRecord, snapshot: SnapshotRecord) -> MadeSnapshot:
        target = f"{snapshot_path(self._paths, snapshot.id)}/data"
        wanted = _Wanted(target, self._data(record), USUAL_MODE)
        await self._step(record, "copying its files", _make, wanted, self._budget(), seconds=COPY_SECONDS)
        used = await self._step(record, "measuring the copy", files.disk_usage, target, seconds=TREE_SECONDS)
        return MadeSnapshot(size=used.bytes)

    async def delete_snapshot(self, snapshot: SnapshotRecord) -> None:
        path = snapshot_path(self._paths, snapshot.id)
        what = f"snapshot {snapshot.name}: removing its files"
        with trying(what):
            await foreign(Job(what, snapshot.id, TREE_SECONDS), files.remove_tree, path)

    async def check(self, record: VolumeRecord) -> Sequence[Finding]:
        path, area = self._data(record), "volumes"
        if not await self._step(record, "looking for its directory", os.path.isdir, path):
            return [Finding(area, str(record.name), f"its directory {path} is not there")]
        if not record.capacity:
            return []
        if await self._no_sizes():
            return [Finding(area, str(record.name), f"its size is no limit any more: {self._sizes}")]
        held = await self._step(record, "looking at its limit", quotas.usage, path)
        if held is None or held.max_bytes < record.capacity:
            has = held.max_bytes if held is not None else 0
            text = f"its limit is {has} bytes, not {record.capacity}"
            return [Finding(area, str(record.name), text)]
        return []

    def _data(self, record: VolumeRecord) -> str:
        return VolumePaths(self._paths, record.id).data

    def _budget(self) -> CopyBudget:
        return CopyBudget(CopyLimits(_NO_LIMIT, COPY_ENTRIES, COPY_SECONDS, self._min_free))

    async def _step(
        self,
        record: VolumeRecord,
        what: str,
        work: Callable[..., T],
        *args: object,
        seconds: float = STEP_SECONDS,
    ) -> T:
        ends = [arg.end for arg in args if isinstance(arg, CopyBudget)]
        text = f"volume {record.name}: {what}"
        job = Job(text, record.id, seconds, stop=ends[0] if ends else _nothing)
        with trying(what):
            return await foreign(job, work, *args)


def mode_of(spec: VolumeSpec) -> int:
    """Of the directory. InvalidRequest for what is not three or four octal digits."""
    text = spec.parameters.get(MODE, f"{USUAL_MODE:o}")
    if not (3 <= len(text) <= 4 and set(text) <= set("01234567")):
        raise InvalidRequest(
            f"{text!r} is not a mode of three or four octal digits", field=f"parameters.{MODE}"
        )
    return int(text, 8)


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A directory to be made: empty, or with what `source` holds."""

    path: str
    source: str
    mode: int
    limit: int = 0
    """Bytes; 0: none."""


def _make(wanted: _Wanted, budget: CopyBudget) -> None:
    """It has its name when it is whole."""
    path = wanted.path
    if os.path.isdir(path):
        return
    fresh = path + _PARTIAL
    _remove(fresh)
    make_directory(os.path.dirname(path), 0o700)
    os.mkdir(fresh, 0o700)
    if wanted.limit:
        quotas.set_limit(fresh, wanted.limit)
    fd = os.open(fresh, _DIRECTORY)
    try:
        os.fchmod(fd, wanted.mode)
        if wanted.source:
            source_fd = os.open(wanted.source, _DIRECTORY)
            try:
                copy_tree(source_fd, fd, budget)
            finally:
                os.close(source_fd)
            files.sync_filesystem(fd)
    finally:
        os.close(fd)
    os.rename(fresh, path)
    files.sync_directory(os.path.dirname(path))


def _remove(path: str) -> None:
    """The directory, half-made or whole, and with it the volume's own one."""
    for place in (path, path + _PARTIAL):
        if os.path.isdir(place):
            with_quota = quotas.is_offered(place)
            if with_quota:
                quotas.clear(place)
            files.remove_tree(place)
    parent = os.path.dirname(path)
    if os.path.isdir(parent) and not os.listdir(parent):
        os.rmdir(parent)
