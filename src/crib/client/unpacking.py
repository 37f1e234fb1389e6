"""Unpacking a possibly hostile archive, below one directory and nowhere else.

No link is ever followed. Each name is walked from the destination, component by component (openat(2) with
O_NOFOLLOW), so no link leads out, whether it is from the archive or was there before. Files are written under
a temporary name and renamed, so an existing file is replaced and never written through. These are the lessons
of kubectl cp: CVE-2018-1002100 (`..` in names), CVE-2019-1002101 and CVE-2019-11251 (links that lead out),
CVE-2019-11246 and CVE-2019-11249 (writing through links).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from crib.client.errors import Exhausted, RuntimeFailure
from crib.wire.tar import TarError, TarReader
from crib.wire.tar_member import Kind, Member, printable
from crib.wire.tar_records import Extent

MAX_MEMBERS = 1_000_000
"""Of one archive."""
MAX_PROBLEMS = 100
"""Skipped entries that are reported one by one."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_MODE = 0o777
"""No set-id bits: a container must not make programs for the host that run as another user."""
_LEFT_OUT = (errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG)
"""What concerns one member only: something in its way, or a name that this file system does not take."""

Parts = tuple[bytes, ...]


@dataclass(slots=True)
class Problems:
    """What was not copied: a line for each of the first ones, and their number."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, name: bytes, reason: str) -> None:
        """One thing."""
        self.count += 1
        if len(self.lines) < MAX_PROBLEMS:
            self.lines.append(f"{printable(name)}: {reason}")


@dataclass(frozen=True, slots=True)
class Naming:
    """The name of the requested file in the archive, and the one that it gets here.

    Both are empty for the content of a directory without the directory itself.
    """

    asked: Parts
    here: Parts
    is_directory: bool = False
    """Whether nothing but a directory may have that name here."""

    def parts(self, name: bytes) -> Parts:
        """A member's name below the destination. RuntimeFailure if it is no part of what was requested."""
        parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
        if name.startswith(b"/") or b".." in parts or parts[: len(self.asked)] != self.asked:
            raise RuntimeFailure(
                f"the archive has {printable(name)}, which was not asked for: it is not trusted"
            )
        return self.here + parts[len(self.asked) :]

    def is_inside(self, link: Parts, target: bytes) -> bool:
        """Whether a link at `link` stays inside the copy, whatever other links it contains.

        Only real directories may be left with `..`: after a name that may be a link, `..` could be anywhere.
        """
        parts = [part for part in target.split(b"/") if part not in (b"", b".")]
        ups = next((number for number, part in enumerate(parts) if part != b".."), len(parts))
        depth = len(link) - 1 - len(self.here)
        return bool(target) and not target.startswith(b"/") and ups <= depth and b".." not in parts[ups:]


class Unpacker:
    """Takes an archive's bytes. Call `finish` after the last one, and `close` in any case.

    `root` is a directory; its path is not resolved. Accepts at most `max_bytes` of file data; 0: no limit.
    """

    def __init__(self, root: str, naming: Naming, max_bytes: int = 0) -> None:
        self.problems = Problems()
        self.members = 0
        self._naming = naming
        self._max_bytes = max_bytes
        self._bytes = 0
        self._reader = TarReader(MAX_MEMBERS)
        self._at = 0
        self._file: _File | None = None
        self._made: list[tuple[Parts, Member]] = []
        """Directories that we made: their modes and times are set at the end."""
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._last: tuple[Parts, int] = ((), os.dup(self._root))
        """The directory of the last member, as the next one is mostly in the same."""

    def receive(self, data: bytes) -> None:
        """The next bytes. RuntimeFailure, Exhausted, OSError: the copy has failed."""
        base, self._at = self._at, self._at + len(data)
        try:
            members = self._reader.receive_data(data)
        except TarError as error:
            raise RuntimeFailure(f"what came is no archive: {error}") from error
        view = memoryview(data)
        if self._file is not None:
            self._write(self._file, view, base)
        for member in members:
            self._begin(member)
            if self._file is not None:
                self._write(self._file, view, base)

    def finish(self) -> None:
        """The archive has ended. RuntimeFailure when it ends too early."""
        try:
            self._reader.end()
        except TarError as error:
            raise RuntimeFailure(f"the archive is not complete: {error}") from error
        for parts, member in reversed(self._made):
            directory = self._open(parts, make=False)
            try:
                os.fchmod(directory, member.mode & _KEPT_MODE)
                os.utime(directory, ns=_times(member))
            finally:
                os.close(directory)

    def close(self) -> None:
        """Let go of everything; a file that is not complete is removed."""
        if self._file is not None:
            self._file.discard()
            self._file = None
        os.close(self._last[1])
        os.close(self._root)

    def _begin(self, member: Member) -> None:
        self.members += 1
        parts = self._naming.parts(member.name)
        if not parts:
            return
        if parts == self._naming.here and self._naming.is_directory and member.kind is not Kind.DIRECTORY:
            raise RuntimeFailure(f"there is no directory {printable(parts[-1])} to copy into")
        try:
            self._make(member, parts)
        except OSError as error:
            if error.errno not in _LEFT_OUT:
                raise
            self.problems.add(member.name, f"there is something in its way: {error.strerror}")

    def _make(self, member: Member, parts: Parts) -> None:
        directory = self._directory(parts[:-1])
        match member.kind:
            case Kind.FILE:
                self._bytes += member.stored
                if self._max_bytes and self._bytes > self._max_bytes:
                    raise Exhausted(f"there is more to copy than {self._max_bytes} bytes")
                self._file = _File(member, directory, parts[-1])
            case Kind.DIRECTORY:
                self._make_directory(member, directory, parts)
            case Kind.SYMLINK if self._naming.is_inside(parts, member.link):
                temporary = _temporary()
                os.symlink(member.link, temporary, dir_fd=directory)
                os.utime(temporary, ns=_times(member), dir_fd=directory, follow_symlinks=False)
                _put(directory, temporary, parts[-1])
            case Kind.HARD_LINK:
                self._make_hard_link(member, directory, parts[-1])
            case Kind.SYMLINK:
                self.problems.add(
                    member.name, f"a link that leads out of the copy, to {printable(member.link)}"
                )
            case _:
                self.problems.add(member.name, f"a {member.kind.value}")

    def _make_directory(self, member: Member, directory: int, parts: Parts) -> None:
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=directory)
        except FileExistsError:
            os.close(os.open(parts[-1], _DIRECTORY, dir_fd=directory))
        else:
            self._made.append((parts, member))

    def _make_hard_link(self, member: Member, directory: int, name: bytes) -> None:
        source = self._naming.parts(member.link)
        if not source:
            self.problems.add(member.name, "a hard link to a directory")
            return
        try:
            holder = self._open(source[:-1], make=False)
        except FileNotFoundError:
            self.problems.add(member.name, f"a hard link to {printable(member.link)}, which does not exist")
            return
        try:
            # A symbolic link that gets another name somewhere else would lead somewhere else.
            if not stat.S_ISREG(os.stat(source[-1], dir_fd=holder, follow_symlinks=False).st_mode):
                self.problems.add(member.name, f"a hard link to {printable(member.link)}, which is no file")
                return
            temporary = _temporary()
            os.link(source[-1], temporary, src_dir_fd=holder, dst_dir_fd=directory, follow_symlinks=False)
            _put(directory, temporary, name)
        except FileNotFoundError:
            self.problems.add(member.name, f"a hard link to {printable(member.link)}, which does not exist")
        finally:
            os.close(holder)

    def _write(self, file: _File, view: memoryview, base: int) -> None:
        start = file.member.offset
        file.write(view[max(start - base, 0) : max(start + file.member.stored - base, 0)])
        if self._at >= start + file.member.stored:
            self._file = None
            try:
                file.finish()
            except OSError as error:
                if error.errno not in _LEFT_OUT:
                    raise
                self.problems.add(file.member.name, f"there is something in its way: {error.strerror}")

    def _directory(self, parts: Parts) -> int:
        """A directory below the destination, made when it is missing; it stays open until the next one."""
        if self._last[0] != parts:
            opened = self._open(parts, make=True)
            os.close(self._last[1])
            self._last = parts, opened
        return self._last[1]

    def _open(self, parts: Parts, *, make: bool) -> int:
        current = os.dup(self._root)
        try:
            for part in parts:
                if make:
                    try:
                        os.mkdir(part, dir_fd=current)
                    except FileExistsError:
                        pass  # if it is no directory, opening it says so
                below = os.open(part, _DIRECTORY, dir_fd=current)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current


class _File:
    """A file that is being written, under another name until it is complete."""

    def __init__(self, member: Member, directory: int, name: bytes) -> None:
        self.member = member
        self._name = name
        self._directory = os.dup(directory)
        self._temporary = _temporary()
        try:
            self._file = os.open(self._temporary, _NEW, 0o600, dir_fd=self._directory)
        except BaseException:
            os.close(self._directory)
            raise
        self._extents: Iterator[Extent] = iter(member.sparse or (Extent(0, member.stored),))
        self._place, self._left = 0, 0

    def write(self, data: memoryview) -> None:
        """The next stored bytes, where they belong."""
        while data:
            if not self._left:
                self._place, self._left = next(self._extents)
                continue
            written = os.pwrite(self._file, data[: self._left], self._place)
            data = data[written:]
            self._place += written
            self._left -= written

    def finish(self) -> None:
        """All has come: give it its mode, time and name."""
        try:
            if self.member.sparse is not None:
                os.ftruncate(self._file, self.member.size)
            os.fchmod(self._file, self.member.mode & _KEPT_MODE)
            os.utime(self._file, ns=_times(self.member))
            _put(self._directory, self._temporary, self._name)
        except BaseException:
            self.discard()
            raise
        os.close(self._file)
        os.close(self._directory)

    def discard(self) -> None:
        """Remove it."""
        os.close(self._file)
        try:
            os.unlink(self._temporary, dir_fd=self._directory)
        except FileNotFoundError:
            pass  # _put has removed it
        os.close(self._directory)


def _temporary() -> bytes:
    return b".crib-cp-%s" % secrets.token_hex(8).encode()


def _put(directory: int, temporary: bytes, name: bytes) -> None:
    """Rename, replacing an existing file or link."""
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        try:
            # Still there after a failure, and when both are names of one file (rename(2)).
            os.unlink(temporary, dir_fd=directory)
        except FileNotFoundError:
            pass  # it has its new name


def _times(member: Member) -> tuple[int, int]:
    nanoseconds = member.mtime * 10**9 + member.mtime_nsec
    return nanoseconds, nanoseconds
