"""What a checkpoint consists of on disk, and the archive that is made of it. All of it blocks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from crib.backends.images.layer_tars import directory_entries, tar_of_tree
from crib.backends.oci.command_lines import CheckpointFiles
from crib.host import libc
from crib.host.files import remove_tree, sync_directory
from crib.wire import checkpoint_archive as wire
from crib.wire.erofs_inode import OPAQUE
from crib.wire.erofs_reader import Entry
from crib.wire.tar_member import Kind, Member
from crib.wire.tar_writer import END, member_header, padding

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV
_PIECE = 1 << 20
_REASONS = 3
"""Errors of CRIU that are told, the last ones: one leads to the next."""
_LOOK_AGAIN = 0.05
"""Seconds between two looks at whether the program of an earlier daemon has ended."""


@dataclass(frozen=True, slots=True)
class CaptureDirectory:
    """Where a container is captured."""

    path: str

    @property
    def files(self) -> CheckpointFiles:
        """For the runtime."""
        return CheckpointFiles(f"{self.path}/images", f"{self.path}/work", f"{self.path}/runtime.log")

    @property
    def diff(self) -> str:
        return f"{self.path}/{wire.DIFF}"

    @property
    def deleted(self) -> str:
        return f"{self.path}/{wire.DELETED}"

    def make(self) -> int:
        """Make it anew; a descriptor whose lock is held as long as anybody has it open."""
        remove_tree(self.path)
        for one in (self.path, self.files.images, self.files.work):
            os.mkdir(one, 0o700)
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd

    def await_end(self, seconds: float) -> None:
        """Wait for the program of an earlier daemon that may still be at work; TimeoutError."""
        until = time.monotonic() + seconds
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            while not _is_free(fd):
                if time.monotonic() > until:
                    raise TimeoutError(f"the checkpoint of an earlier daemon has not ended: {self._lock}")
                time.sleep(_LOOK_AGAIN)  # a lock of another process's tells nobody
        finally:
            os.close(fd)

    def remove(self) -> None:
        remove_tree(self.path)

    @property
    def _lock(self) -> str:
        return f"{self.path}/lock"

    def words(self) -> str:
        """What CRIU gave as its reason, else what the runtime said; empty when neither is there."""
        log = f"{self.files.work}/{wire.CRIU_LOG}"
        return last_reasons(log) or "".join(_last_lines(self.files.log)[-1:])


def last_reasons(path: str) -> str:
    """The last errors in a log of CRIU's; empty when there is none."""
    return "; ".join([line for line in _last_lines(path) if "Error (" in line][-_REASONS:])


def _last_lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _PIECE))
            return file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_diff(capture: CaptureDirectory, upper: str, lower: Sequence[str]) -> None:
    """What a container has changed in its root: a tar of what is new, and a list of what is gone.

    `lower`: the directories of its image's layers.
    """
    deleted: list[str] = []
    with open(os.open(capture.diff, _NEW, 0o600), "wb") as file:
        for piece in tar_of_tree(_kept(upper, lower, deleted)):
            file.write(piece)
    with open(os.open(capture.deleted, _NEW, 0o600), "wb") as file:
        file.write(wire.encode(sorted(set(deleted))))


def _kept(upper: str, lower: Sequence[str], deleted: list[str]) -> Iterator[tuple[Entry, int]]:
    """The entries of a writable layer without the marks of overlayfs; what those hide goes to `deleted`."""
    for found, fd in directory_entries(upper):
        entry, inode = found, found.inode
        if stat.S_ISSOCK(inode.mode):
            continue  # CRIU makes those that are in use again; no archive holds any
        if inode.is_whiteout:
            deleted.append(f"/{os.fsdecode(entry.path)}")
            continue
        if inode.is_opaque:
            hidden = _names_below(lower, os.fsdecode(entry.path)) - set(os.listdir(fd))
            deleted += (f"/{os.fsdecode(entry.path)}/{name}" for name in hidden)
            attributes = {key: value for key, value in inode.xattrs.items() if key != OPAQUE}
            entry = entry._replace(inode=inode._replace(xattrs=attributes))
        yield entry, fd


def _names_below(lower: Sequence[str], path: str) -> set[str]:
    """What a directory may have in any of the layers: more than there was does no harm."""
    names: set[str] = set()
    for layer in lower:
        with contextlib.suppress(OSError):
            top = os.open(layer, _DIRECTORY)
            try:
                fd = libc.openat2(top, path, _DIRECTORY, resolve=_BENEATH)
            finally:
                os.close(top)
            try:
                names.update(os.listdir(fd))
            finally:
                os.close(fd)
    return names


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """Members in their order: documents as bytes, files by their paths."""

    documents: Sequence[tuple[str, bytes]]
    files: Sequence[tuple[str, str]]
    at: int
    """Seconds since the epoch, which all members say of themselves."""


def plan_archive(
    capture: CaptureDirectory, documents: Sequence[tuple[str, bytes]], log: str, at: int
) -> ArchivePlan:
    """`log` is the path of the container's log, or empty."""
    files = capture.files
    images = sorted(os.listdir(files.images))
    return ArchivePlan(
        documents,
        [
            (wire.DELETED, capture.deleted),
            (wire.STATISTICS, f"{files.work}/{wire.STATISTICS}"),
            (wire.CRIU_LOG, f"{files.work}/{wire.CRIU_LOG}"),
            *([(wire.LOG, log)] if log else []),
            (wire.DIFF, capture.diff),
            *((f"{wire.IMAGES}/{name}", f"{files.images}/{name}") for name in images),
        ],
        at,
    )


def draft_of(location: str, container: str) -> str:
    """The name of an archive until it is whole: always the same, so that a later daemon finds it."""
    directory, name = os.path.split(location)
    return f"{directory}/.{name[:100]}.{container[:12]}.partial"


def remove_draft(draft: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(draft)


def write_archive(plan: ArchivePlan, draft: str, seconds: float) -> None:
    """Write and sync it; TimeoutError after that many seconds. What there is of it then stays."""
    until = time.monotonic() + seconds
    remove_draft(draft)
    with open(os.open(draft, _NEW, 0o600), "wb") as file:
        file.write(member_header(_member(f"{wire.IMAGES}/", Kind.DIRECTORY, 0, plan.at)))
        for name, content in plan.documents:
            file.write(member_header(_member(name, Kind.FILE, len(content), plan.at)))
            file.write(content + bytes(padding(len(content))))
        for name, path in plan.files:
            try:
                fd = os.open(path, _FILE)
            except FileNotFoundError:
                if name in _MAY_LACK:
                    continue
                raise
            try:
                _add_file(file, _member(name, Kind.FILE, os.fstat(fd).st_size, plan.at), fd, until)
            finally:
                os.close(fd)
        file.write(END)
        file.flush()
        os.fsync(file.fileno())


def rename_synced(draft: str, location: str) -> None:
    """Give an archive that is whole its name."""
    os.rename(draft, location)
    sync_directory(os.path.dirname(location))


_MAY_LACK = frozenset((wire.STATISTICS, wire.CRIU_LOG, wire.LOG))


def _add_file(archive: BinaryIO, member: Member, fd: int, until: float) -> None:
    """As long as it was: a log may grow meanwhile."""
    name = os.fsdecode(member.name)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    archive.write(member_header(member))
    offset = 0
    while offset < member.size:
        if time.monotonic() > until:
            raise TimeoutError(errno.ETIMEDOUT, "the time for it is over")
        piece = os.pread(fd, min(_PIECE, member.size - offset), offset)
        if not piece:
            raise OSError(errno.EIO, "became shorter while it was read", name)
        archive.write(piece)
        offset += len(piece)
    archive.write(bytes(padding(member.size)))


def _member(name: str, kind: Kind, size: int, at: int) -> Member:
    mode = 0o700 if kind is Kind.DIRECTORY else 0o600
    return Member(os.fsencode(name), kind, mode, 0, 0, at, 0, size, 0, 0)
