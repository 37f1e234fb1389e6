"""A file or a tree of this machine as a tar archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from crib.client.unpacking import Problems
from crib.wire.tar_member import Kind, Member
from crib.wire.tar_writer import END, member_header, padding

PIECE = 1 << 18
"""Bytes of the archive that are made at a time, about."""
Names = dict[tuple[int, int], bytes]
"""For files with several names, by device and inode: the name that has the data in the archive."""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def pack(path: str, name: str, problems: Problems) -> Iterator[bytes]:
    """The archive, piece by piece. `path` is called `name` in it; names below begin with that.

    With the name `.` it has the content of the directory `path`, without the directory itself. Links below
    `path` stay links, hard ones too. A sparse file is sent with all its zeros. Everything belongs to root in
    the archive, and so to the user who unpacks it. OSError if `path` cannot be read; unreadable files below
    it are problems.
    """
    buffer = bytearray()
    for piece in _members(os.fsencode(os.path.realpath(path)), os.fsencode(name), problems):
        buffer += piece
        if len(buffer) >= PIECE:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer) + END


def _members(top: bytes, called: bytes, problems: Problems) -> Iterator[bytes]:
    waiting = [(top, called)]
    """What remains to be packed, the next one last. A tree may be deeper than the call stack."""
    names: Names = {}
    while waiting:
        path, name = waiting.pop()
        try:
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                yield from _file(path, name, names, problems)
            elif stat.S_ISLNK(status.st_mode):
                yield member_header(_member(name, Kind.SYMLINK, status)._replace(link=os.readlink(path)))
            elif stat.S_ISDIR(status.st_mode):
                if name != b".":
                    yield member_header(_member(name + b"/", Kind.DIRECTORY, status))
                entries = sorted(os.listdir(path), reverse=True)
                waiting += [(path + b"/" + entry, name + b"/" + entry) for entry in entries]
            else:
                problems.add(name, "neither a file, a directory nor a link")
        except OSError as error:
            if path == top:
                raise
            problems.add(name, error.strerror or str(error))


def _file(path: bytes, name: bytes, names: Names, problems: Problems) -> Iterator[bytes]:
    descriptor = os.open(path, _FILE)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            problems.add(name, "it changed while it was read")
            return
        first = names.setdefault((status.st_dev, status.st_ino), name) if status.st_nlink > 1 else name
        if first != name:
            yield member_header(_member(name, Kind.HARD_LINK, status)._replace(link=first))
            return
        yield member_header(_member(name, Kind.FILE, status))
        left = status.st_size
        while left:
            data = os.read(descriptor, min(left, PIECE))
            if not data:
                # The header has promised so many bytes.
                problems.add(name, "it became shorter while it was read")
                data = bytes(min(left, PIECE))
            left -= len(data)
            yield data
        yield bytes(padding(status.st_size))
    finally:
        os.close(descriptor)


def _member(name: bytes, kind: Kind, status: os.stat_result) -> Member:
    size = status.st_size if kind is Kind.FILE else 0
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    return Member(name, kind, status.st_mode & 0o7777, 0, 0, seconds, nanoseconds, size, 0, size)
