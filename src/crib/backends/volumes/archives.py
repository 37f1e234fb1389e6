"""Export and import of volumes (port `VolumeArchives`): a process does the work (`archive_main`).

Files go into a tar, compressed with zstd where the archive's name ends in `.zst`; a tar is read as it is, or
compressed with zstd or gzip. A raw device is a plain image, with holes where it has zeros.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial

import msgspec

import crib
from crib.backends.failures import foreign, trying
from crib.backends.images.archives import close_all, opened_archive
from crib.backends.new_files import NewFile
from crib.backends.volumes.archive_messages import MAX_ANSWER, ArchiveAnswer, ArchiveOrder
from crib.host import processes
from crib.host.threads import Job
from crib.host.tree_copies import CopyBudget, CopyLimits, copy_content, copy_data, copy_tree
from crib.model.errors import AlreadyExists, Broken, Exhausted, InvalidRequest
from crib.model.volumes import AccessMode, VolumeDescription
from crib.wire import volume_archive

_log = logging.getLogger(__name__)

ARCHIVE_SECONDS = 24 * 3600.0
"""For a whole archive; whoever asks for it has a limit of his own."""
OPEN_SECONDS = 10.0
MAX_BYTES = 1 << 46
"""That the files of one archive may hold together."""
MAX_ENTRIES = 5_000_000
COMPRESSED = ".zst"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_Files = list[NewFile]
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {0} import main; main(sys.argv[1:])"


class VolumeArchiver:
    """Of the disk that the directory `data` is on, `min_free` bytes stay free; others may fill up."""

    def __init__(self, data: str, min_free: int = 0) -> None:
        self._data = data
        self._min_free = min_free

    async def write(self, directory: str, archive: str, description: VolumeDescription) -> int:
        """Write a volume's files, or its device, to the new file `archive`; the file's size.

        AlreadyExists; InvalidRequest with the field `path` where it cannot be made; Exhausted at a full disk.
        """
        subject = f"export of {directory} to {archive}"
        begun: _Files = []
        close = partial(_close_files, begun)
        with trying(subject):
            try:
                job = Job(f"making {archive}", archive, OPEN_SECONDS, late=close)
                await foreign(job, _begin, archive, begun)
                async with _opened(directory) as (source, is_directory):
                    target = begun[0].fd
                    if is_directory:
                        order = ArchiveOrder(
                            source,
                            target,
                            os.getpid(),
                            "write",
                            description=_encoded(description),
                            compress=archive.endswith(COMPRESSED),
                        )
                        await _run(order, subject)
                    else:
                        await self._copy_image(subject, source, target)
                return await foreign(Job(f"syncing {archive}", archive, ARCHIVE_SECONDS), begun[0].finish)
            finally:
                await foreign(Job(f"closing {archive}", archive, OPEN_SECONDS), close)

    async def read(self, archive: str, directory: str) -> int:
        """Fill an empty directory from an archive or another directory, or a device from an image.

        Bytes of files written. InvalidRequest with the field `path` for what is neither, or not to be
        trusted; what was made until then stays.
        """
        subject = f"import of {archive}"
        with trying(subject):
            async with (
                opened_archive(archive) as (source, from_directory),
                _opened(directory, writable=True) as (target, is_directory),
            ):
                if from_directory and is_directory:
                    return await self._copy_tree(subject, source, target)
                if is_directory:
                    return (await _run(await self._order(source, target), subject)).size
                if from_directory:
                    raise InvalidRequest(f"{archive} is a directory, and {directory} a device", field="path")
                budget = _budget(0)
                job = Job(subject, archive, ARCHIVE_SECONDS, stop=budget.end)
                return await foreign(job, _fill_device, source, target, budget)

    async def describe(self, archive: str) -> VolumeDescription | None:
        """What it says of its volume, by a process that has an empty directory, and no rights in it."""
        subject = f"import of {archive}"
        with trying(subject):
            async with opened_archive(archive) as (source, is_directory):
                if is_directory:
                    return None
                empty = await foreign(Job("making an empty directory", self._data, OPEN_SECONDS), _empty)
                try:
                    order = ArchiveOrder(empty, source, os.getpid(), "describe")
                    text = (await _run(order, subject)).description
                finally:
                    os.close(empty)
        try:
            return _decoded(volume_archive.decode(text)) if text else None
        except volume_archive.MalformedDescription as error:
            raise InvalidRequest(f"{subject}: {error}", field="path") from error

    async def _order(self, source: int, target: int) -> ArchiveOrder:
        return ArchiveOrder(
            target,
            source,
            os.getpid(),
            "read",
            min_free=await self._left_at(target),
            max_bytes=MAX_BYTES,
        )

    async def _copy_tree(self, subject: str, source: int, target: int) -> int:
        budget = _budget(await self._left_at(target))
        job = Job(subject, subject, ARCHIVE_SECONDS, stop=budget.end)
        await foreign(job, copy_tree, source, target, budget)
        return budget.taken

    async def _copy_image(self, subject: str, source: int, target: int) -> None:
        budget = _budget(await self._left_at(target))
        job = Job(subject, subject, ARCHIVE_SECONDS, stop=budget.end)
        await foreign(job, lambda: copy_content(source, target, _size(source), budget))

    async def _left_at(self, fd: int) -> int:
        """Bytes that must stay free where the descriptor is."""
        what = f"looking whether it lies on the disk of {self._data}"
        job = Job(what, self._data, OPEN_SECONDS)
        is_ours = await foreign(job, lambda: os.fstat(fd).st_dev == os.stat(self._data).st_dev)
        return self._min_free if is_ours else 0


def _budget(min_free: int) -> CopyBudget:
    return CopyBudget(CopyLimits(MAX_BYTES, MAX_ENTRIES, ARCHIVE_SECONDS, min_free))


def _begin(path: str, begun: _Files) -> None:
    begun.append(NewFile(path, AlreadyExists))
    begun[0].make_partial()


def _close_files(begun: _Files) -> None:
    while begun:
        begun.pop().close()


@contextlib.asynccontextmanager
async def _opened(path: str, *, writable: bool = False) -> AsyncIterator[tuple[int, bool]]:
    """A descriptor of a volume's directory or device, and whether it is a directory."""
    opened: list[int] = []
    close = partial(close_all, opened)
    try:
        job = Job(f"opening {path}", path, OPEN_SECONDS, late=close)
        is_directory = await foreign(job, _open, path, opened, writable)
        yield opened[0], is_directory
    finally:
        await foreign(Job(f"closing {path}", path, OPEN_SECONDS), close)


def _open(path: str, opened: list[int], writable: bool) -> bool:
    is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    if is_directory:
        opened.append(os.open(path, _DIRECTORY))
    else:
        # Somebody else's mount of it would be destroyed (open(2), O_EXCL).
        opened.append(os.open(path, (os.O_RDWR | os.O_EXCL if writable else os.O_RDONLY) | os.O_CLOEXEC))
    return is_directory


def _size(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_END)


def _fill_device(image: int, device: int, budget: CopyBudget) -> int:
    size, room = _size(image), _size(device)
    if size > room:
        raise InvalidRequest(f"the image has {size} bytes, and the device {room}", field="path")
    copy_data(image, device, size, budget)
    os.fsync(device)
    return size


def _empty() -> int:
    """A descriptor of an empty directory that has no name any more."""
    path = tempfile.mkdtemp(prefix="crib-")
    try:
        return os.open(path, _DIRECTORY)
    finally:
        os.rmdir(path)


def _encoded(found: VolumeDescription) -> str:
    return volume_archive.encode(
        volume_archive.Description(
            name=found.name,
            kind=found.kind,
            storage_class=found.storage_class,
            driver=found.driver,
            capacity=found.capacity,
            access_modes=found.access_modes,
            fs_type=found.fs_type,
            labels=dict(found.labels),
            parameters=dict(found.parameters),
        )
    )


def _decoded(found: volume_archive.Description) -> VolumeDescription:
    unknown = [text for text in found.access_modes if text not in set(AccessMode)]
    if unknown:
        known = ", ".join(AccessMode)
        text = f"its description has the access mode {unknown[0][:100]!r}, and there is {known} only"
        raise volume_archive.MalformedDescription(text)
    return VolumeDescription(
        name=found.name,
        kind=found.kind,
        storage_class=found.storage_class,
        driver=found.driver,
        capacity=found.capacity,
        access_modes=tuple(map(AccessMode, dict.fromkeys(found.access_modes))),
        fs_type=found.fs_type,
        labels=found.labels,
        parameters=found.parameters,
    )


async def _run(order: ArchiveOrder, subject: str) -> ArchiveAnswer:
    """Have the process do it. Broken, Exhausted, InvalidRequest."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(crib.__file__)))
    start = _START.format("crib.backends.volumes.archive_main")
    completed = await processes.run(
        [sys.executable, "-I", "-c", start, root, msgspec.json.encode(order).decode()],
        timeout=ARCHIVE_SECONDS,
        env={"LANG": "C.UTF-8"},
        options=processes.RunOptions(
            output_limit=MAX_ANSWER, pass_fds=(order.directory, order.archive), cwd="/"
        ),
    )
    try:
        answer = msgspec.msgpack.decode(completed.check().stdout, type=ArchiveAnswer)
    except (processes.ProgramFailed, msgspec.MsgspecError, ValueError) as error:
        raise Broken(f"{subject}: {error}") from error
    if answer.refused:
        raise InvalidRequest(f"{subject}: {answer.error}", field="path")
    if answer.error:
        raise (Exhausted if answer.full else Broken)(f"{subject}: {answer.error}")
    if answer.left_out:
        _log.warning("%s: %d things were left out: sockets, devices or attributes", subject, answer.left_out)
    return answer
