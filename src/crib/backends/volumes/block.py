"""Volumes of kind `block`: a file of ours, or a file or device that is there already.

Pods get the file system on it, or with `block` the device itself. A file of ours is formatted when it is
made, anything else when it is staged for the first time, and only if there is no signature of anything on it.
A file gets a loop device, which is there while the volume is staged. Each step can be found half done, and be
repeated: a file has its name when it is whole, and what is mounted or attached is looked for first.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from crib.backends.failures import failure, foreign
from crib.backends.volumes import disks
from crib.backends.volumes.measures import filesystem_usage
from crib.host import disk_filesystems, files
from crib.host.processes import ProgramFailed
from crib.host.threads import Job
from crib.host.tree_copies import CopyBudget, CopyLimits
from crib.model.errors import Broken, InvalidRequest, NotFound, WrongState
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
    snapshot_path,
)
from crib.ports.volumes import KindFacts, Made, MadeSnapshot

T = TypeVar("T")

ALLOCATION = "allocation"
ALLOCATIONS = ("sparse", "full")
"""Values of the parameter: whether blocks of a file are taken when they are written, or at once."""
CALL_SECONDS = 1200.0
"""For one call: formatting and repairing a large disk take long."""
STEP_SECONDS = 60.0
"""For one step at files, mounts or loop devices: a disk that does not answer must not hold up a node."""
REPAIR_SECONDS = 900.0
COPY_SECONDS = 4 * 3600.0
"""For a copy of a whole disk; what is over for the caller ends it sooner."""
FROZEN_SECONDS = 30.0
"""That pods may be kept from writing while a disk is copied, where it cannot be cloned."""
CHECK_SECONDS = 120.0
"""To look through a file system for errors."""
FREE_TRIES = 50
FREE_PAUSE = 0.1
"""Seconds between looks at whether a device is free: the kernel lets go of it after its last user's end."""
FORMATTED = "/formatted"
"""Is beside a volume's file, or where that would be, once there was a file system on it."""
_NOT_MOUNTED = "it is not mounted, although it is staged"
_ALIGNMENT = 4096
_REFUSED_OPTIONS = ("suid", "dev", "remount", "bind", "rbind", "move", "loop", "users", "user", "owner")
_LIMITLESS = 1 << 62


class BlockVolumes:
    """All of them. Copies and full allocations leave `min_free` bytes of the data directory's disk."""

    def __init__(self, paths: Paths, min_free: int = 0) -> None:
        self._paths = paths
        self._min_free = min_free

    async def readiness(self, driver: str = "") -> Readiness:
        return Readiness(ready=True)

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        return KindFacts(block=True, expands=True, snapshots=True, call_limit=CALL_SECONDS)

    async def check_spec(self, spec: VolumeSpec) -> None:
        """InvalidRequest with the field; nothing on the host is looked at."""
        for name, value in spec.parameters.items():
            if name != ALLOCATION:
                raise InvalidRequest(f"kind block knows {ALLOCATION} only", field=f"parameters.{name}")
            if value not in ALLOCATIONS:
                known = " or ".join(ALLOCATIONS)
                raise InvalidRequest(f"{value!r} is not {known}", field=f"parameters.{name}")
        if spec.block and (spec.fs_type or spec.mount_options):
            raise InvalidRequest("a raw device has no file system", field="fs_type")
        if (fs_type := _fs_type(spec)) not in disk_filesystems.MAKERS:
            known = " or ".join(disk_filesystems.MAKERS)
            raise InvalidRequest(f"{fs_type!r} is not {known}", field="fs_type")
        for option in spec.mount_options:
            if option.partition("=")[0] in _REFUSED_OPTIONS:
                raise InvalidRequest(f"{option} is not for volumes", field="mount_options")
        if spec.source and not spec.source.startswith("/"):
            raise InvalidRequest(f"{spec.source!r} is not an absolute path", field="source")
        if not spec.source and not spec.snapshot:
            least = _ALIGNMENT if spec.block else disk_filesystems.LEAST[fs_type]
            if spec.capacity < least:
                what = "a raw device" if spec.block else f"a file system {fs_type}"
                raise InvalidRequest(f"{what} needs at least {least} bytes", field="capacity")

    async def create(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> Made:
        if record.spec.source:
            source = await self._look(record)
            if source.size < record.spec.capacity:
                text = f"{source.path} has {source.size} bytes, {record.spec.capacity} are wanted"
                raise InvalidRequest(text, field="capacity")
            return Made(capacity=source.size)
        with _failing(f"volume {record.name} could not be made"):
            if not await self._step(record, "looking for its file", os.path.lexists, self._file(record)):
                await self._make(record, snapshot)
            made = Made(capacity=(await self._look(record)).size)
        if snapshot is not None and not record.spec.block and made.capacity > snapshot.size:
            await self._grow(record)
        return made

    async def _make(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> None:
        path = self._file(record)
        room = self._room(record, -(-record.spec.capacity // _ALIGNMENT) * _ALIGNMENT)
        if snapshot is not None:
            source = f"{snapshot_path(self._paths, snapshot.id)}/file"
            budget = self._budget(COPY_SECONDS)
            await self._copy(record, budget, lambda: disks.begin_copy(source, path, room, budget))
        else:
            fresh = await self._step(record, "making its file", disks.begin, path, room)
            if not record.spec.block:
                await disk_filesystems.make(_fs_type(record.spec), fresh, record.id, is_file=True)
        await self._step(record, "syncing its file", disks.finish, path, seconds=COPY_SECONDS)

    async def clone(self, record: VolumeRecord, source: VolumeRecord) -> Made:
        raise WrongState("kind block has no clones")

    async def delete(self, record: VolumeRecord) -> None:
        with _failing(f"volume {record.name} could not be removed"):
            if not record.spec.source:
                await self._step(record, "detaching its file", disks.detach, self._file(record))
            lasting = VolumePaths(self._paths, record.id).lasting
            await self._step(record, "removing its file", files.remove_tree, lasting)

    async def stage(self, record: VolumeRecord) -> Mapping[str, str]:
        with _failing(f"volume {record.name} could not be staged"):
            source = await self._look(record)
            if record.spec.block:
                await self._stage_device(record, source)
            else:
                await self._stage_files(record, source)
        return {}

    async def _stage_device(self, record: VolumeRecord, source: disks.FileOrDevice) -> None:
        if not record.uses:
            await self._step(record, "looking for its users", disks.require_unmounted, source)
        await self._step(record, "attaching it", disks.device_of, source)

    async def _stage_files(self, record: VolumeRecord, source: disks.FileOrDevice) -> None:
        stage, fs_type = VolumePaths(self._paths, record.id).stage, _fs_type(record.spec)
        if device := await self._step(record, "looking at its mount", disks.mounted_from, stage):
            if not await self._step(record, "looking at its device", disks.is_of, device, source):
                raise WrongState(f"{device} is mounted at {stage}, which is not its place")
            # A daemon that was killed while it made a snapshot has left it frozen.
            await self._step(record, "thawing it", disks.thaw, stage)
            return
        await self._until_free(record, source)
        await self._prepare(record, source)
        options = record.spec.mount_options
        if fs_type == "xfs":
            options = ("nouuid", *options)  # a volume has the one of the snapshot that it was restored from
        await self._step(record, "mounting it", disks.mount, source, stage, fs_type, options)

    async def _prepare(self, record: VolumeRecord, source: disks.FileOrDevice) -> None:
        """Have a sound file system on it. It is formatted once: what is lost later may be found again."""
        fs_type, mark = _fs_type(record.spec), VolumePaths(self._paths, record.id).lasting + FORMATTED
        found = await disk_filesystems.signatures(source.path, record.id)
        if found and set(found) != {fs_type}:
            raise WrongState(f"{source.path} is not formatted: it holds {', '.join(dict.fromkeys(found))}")
        if found:
            await disk_filesystems.repair(fs_type, source.path, record.id, REPAIR_SECONDS)
        elif not record.spec.source or await self._step(record, "looking back", os.path.lexists, mark):
            raise WrongState(f"{source.path} has lost its file system, and is not formatted again")
        else:
            await disk_filesystems.make(fs_type, source.path, record.id, is_file=source.is_file)
        if record.spec.source:
            await self._step(record, "noting its file system", disks.note, mark)

    async def _until_free(self, record: VolumeRecord, source: disks.FileOrDevice) -> None:
        for left in reversed(range(FREE_TRIES)):
            try:
                await self._step(record, "looking for its users", disks.require_unused, source)
            except WrongState:
                if not left:
                    raise
                await asyncio.sleep(FREE_PAUSE)
            else:
                return

    async def unstage(self, record: VolumeRecord) -> None:
        paths = VolumePaths(self._paths, record.id)
        with _failing(f"volume {record.name} could not be unstaged"):
            await self._step(record, "unmounting it", disks.unmount, paths.stage)
            if record.spec.block:
                await self._step(record, "detaching it", disks.detach, self._place(record))

    async def publish(self, record: VolumeRecord, use: VolumeUse) -> str:
        paths = VolumePaths(self._paths, record.id)
        target = paths.published(use)
        with _failing(f"volume {record.name} could not be published to pod {use.pod}"):
            if record.spec.block:
                source = await self._look(record)
                return await self._step(record, "attaching it", disks.device_of, source)
            stage, read_only = paths.stage, use.read_only
            await self._step(record, "binding it", lambda: disks.bind(stage, target, read_only=read_only))
        return target

    async def unpublish(self, record: VolumeRecord, use: VolumeUse) -> None:
        target = VolumePaths(self._paths, record.id).published(use)
        with _failing(f"volume {record.name} could not be taken from pod {use.pod}"):
            await self._step(record, "unmounting it", disks.unmount, target)

    async def usage(self, record: VolumeRecord) -> VolumeUsage:
        with _failing(f"volume {record.name} could not be measured"):
            if record.stage is StageState.STAGED and not record.spec.block:
                stage = VolumePaths(self._paths, record.id).stage
                return await self._step(record, "measuring it", filesystem_usage, stage)
            source = await self._look(record)
            return VolumeUsage(total=source.size, used=source.allocated)

    async def expand(self, record: VolumeRecord, capacity: int) -> int:
        """A file or device of somebody else's must have been made larger before."""
        with _failing(f"volume {record.name} could not be made larger"):
            if record.spec.source:
                size = (await self._look(record)).size
                if size < capacity:
                    text = f"{record.spec.source} has {size} bytes: make it larger first"
                    raise InvalidRequest(text, field="capacity")
            else:
                room = self._room(record, -(-capacity // _ALIGNMENT) * _ALIGNMENT)
                file = self._file(record)
                size = await self._step(record, "making its file larger", disks.enlarge, file, room)
            if record.spec.block:
                await self._step(record, "telling its device", disks.refresh, self._place(record))
        if not record.spec.block:
            await self._grow(record)
        return size

    async def _grow(self, record: VolumeRecord) -> None:
        """Have the file system fill its device; one that is not mounted is for that time."""
        place = VolumePaths(self._paths, record.id).stage
        with _failing(f"the file system of volume {record.name} could not be made larger"):
            is_mounted = bool(await self._step(record, "looking at its mount", disks.mounted_from, place))
            if not is_mounted:
                await self.stage(record)
            try:
                await self._step(record, "telling its device", disks.refresh, self._place(record))
                device = await self._step(record, "looking at its mount", disks.mounted_from, place)
                await disk_filesystems.grow(_fs_type(record.spec), device, place, record.id)
            finally:
                if not is_mounted:
                    await self.unstage(record)

    async def snapshot(self, record: VolumeRecord, snapshot: SnapshotRecord) -> MadeSnapshot:
        """The file system stands still meanwhile; a clone takes milliseconds, a copy FROZEN_SECONDS at most.

        A raw device that is in use is only cloned: nobody can say when it may be copied.
        """
        path, source = f"{snapshot_path(self._paths, snapshot.id)}/file", self._place(record)
        stage = VolumePaths(self._paths, record.id).stage
        with _failing(f"volume {record.name} could not be kept as {snapshot.name}"):
            if not await self._step(record, "looking for its snapshot", os.path.lexists, path):
                if await self._step(record, "looking at its mount", disks.mounted_from, stage):
                    budget = self._budget(FROZEN_SECONDS)
                    await self._copy(record, budget, lambda: disks.copy_frozen(source, path, stage, budget))
                elif record.uses:
                    await self._step(record, "cloning it", disks.begin_clone, source, path)
                else:
                    budget = self._budget(COPY_SECONDS)
                    await self._copy(
                        record, budget, lambda: disks.begin_copy(source, path, disks.AS_IT_IS, budget)
                    )
                await self._step(record, "syncing its snapshot", disks.finish, path, seconds=COPY_SECONDS)
            size = (await self._step(record, "looking at its snapshot", disks.look, path)).size
        return MadeSnapshot(size=size)

    async def delete_snapshot(self, snapshot: SnapshotRecord) -> None:
        """One that never came to its end may have left its volume frozen: the daemon was killed meanwhile."""
        path = snapshot_path(self._paths, snapshot.id)
        stage = VolumePaths(self._paths, snapshot.volume).stage
        with _failing(f"snapshot {snapshot.name} could not be removed"):
            if not snapshot.usable:
                await foreign(Job(f"thawing {stage}", snapshot.id, STEP_SECONDS), disks.thaw, stage)
            await foreign(Job(f"removing {path}", snapshot.id, STEP_SECONDS), files.remove_tree, path)

    async def check(self, record: VolumeRecord) -> Sequence[Finding]:
        subject, place = str(record.name), self._place(record)
        stage = VolumePaths(self._paths, record.id).stage
        try:
            source = await self._look(record)
        except (NotFound, WrongState) as error:
            return (Finding("volumes", subject, error.message),)
        if source.size < record.capacity:
            text = f"{place} has {source.size} bytes, and had {record.capacity}"
            return (Finding("volumes", subject, text),)
        if record.spec.block:
            return ()
        device = await self._step(record, "looking at its mount", disks.mounted_from, stage)
        problem = await (self._mounted_problem if device else self._problem)(record, source, device)
        mend = "it is mounted again" if problem == _NOT_MOUNTED else ""
        return (Finding("volumes", subject, problem, mend),) if problem else ()

    async def _mounted_problem(self, record: VolumeRecord, source: disks.FileOrDevice, device: str) -> str:
        if not await self._step(record, "looking at its device", disks.is_of, device, source):
            return f"{device} is mounted in its place"
        if count := await self._step(record, "counting its errors", disks.error_count, device):
            return f"its file system on {device} has {count} errors: stop its pods, then run e2fsck"
        return ""

    async def _problem(self, record: VolumeRecord, source: disks.FileOrDevice, device: str) -> str:
        if record.stage is StageState.STAGED:
            return _NOT_MOUNTED
        try:
            await self._step(record, "looking for its users", disks.require_unused, source)
            found = await disk_filesystems.signatures(source.path, record.id)
            if not found:
                return ""
            fs_type = _fs_type(record.spec)
            errors = await disk_filesystems.errors(fs_type, source.path, record.id, CHECK_SECONDS)
        except WrongState as error:
            return error.message
        except (OSError, ProgramFailed) as error:
            return failure(f"{source.path} cannot be read", error).message
        return f"its file system has errors: {errors}" if errors else ""

    def _file(self, record: VolumeRecord) -> str:
        return VolumePaths(self._paths, record.id).file

    def _place(self, record: VolumeRecord) -> str:
        return record.spec.source or self._file(record)

    async def _look(self, record: VolumeRecord) -> disks.FileOrDevice:
        """NotFound, WrongState where it is something else."""
        place = self._place(record)
        try:
            return await self._step(record, f"looking at {place}", disks.look, place)
        except FileNotFoundError as error:
            raise NotFound(f"{place} is not there") from error
        except OSError as error:
            raise failure(f"{place} cannot be used", error) from error

    def _budget(self, seconds: float) -> CopyBudget:
        return CopyBudget(CopyLimits(_LIMITLESS, 1 << 31, seconds, self._min_free))

    def _room(self, record: VolumeRecord, size: int) -> disks.FileSize:
        return disks.FileSize(size, record.spec.parameters.get(ALLOCATION) == "full", self._min_free)

    async def _copy(self, record: VolumeRecord, budget: CopyBudget, work: Callable[[], object]) -> None:
        job = Job(f"volume {record.name}: copying it", record.id, COPY_SECONDS, stop=budget.end)
        await foreign(job, work)

    async def _step(
        self,
        record: VolumeRecord,
        what: str,
        work: Callable[..., T],
        *args: object,
        seconds: float = 0.0,
    ) -> T:
        job = Job(f"volume {record.name}: {what}", record.id, seconds or STEP_SECONDS)
        return await foreign(job, work, *args)


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """WrongState where somebody uses what must be free; else as `failure` says."""
    try:
        yield
    except (OSError, ProgramFailed) as error:
        is_busy = isinstance(error, OSError) and error.errno == errno.EBUSY
        raise failure(what, error, WrongState if is_busy else Broken) from error


def _fs_type(spec: VolumeSpec) -> str:
    return spec.fs_type or "ext4"
