"""What is mounted where, and when that changes: this process's mount table (proc(5), /proc/PID/mountinfo)."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from crib.host import libc

_OCTAL = re.compile(rb"\\([0-7]{3})")
_ESCAPED_IN_PATHS = " \t\n\\"


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo; paths are unescaped."""

    mount_id: int
    parent_id: int
    root: str
    path: str
    options: frozenset[str]
    propagation: tuple[str, ...]
    fstype: str
    source: str
    super_options: frozenset[str]

    @property
    def read_only(self) -> bool:
        """Whether this mount (not only its superblock) refuses writes."""
        return "ro" in self.options

    @property
    def shared(self) -> bool:
        """Whether mounts made below this one propagate to a peer group."""
        return any(tag.startswith("shared:") for tag in self.propagation)


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    # The kernel escapes bytes, so an escaped byte of a multi-byte character must be joined before it is
    # decoded.
    raw = os.fsencode(field)
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), raw))


def _escape(path: str) -> str:
    return "".join(f"\\{ord(char):03o}" if char in _ESCAPED_IN_PATHS else char for char in path)


def _opened(mountinfo: str) -> TextIO:
    # A carriage return is no end of a line: the kernel writes those of names as they are.
    return open(mountinfo, encoding="utf-8", errors="surrogateescape", newline="\n")


def parse_mountinfo(text: str) -> list[MountEntry]:
    """The entries of a mountinfo text, in its order: parents first; lines that are none are left out."""
    entries = []
    for line in text.split("\n"):
        fields = line.split(" ")
        try:
            dash = fields.index("-", 6)
            entries.append(
                MountEntry(
                    mount_id=int(fields[0]),
                    parent_id=int(fields[1]),
                    root=_unescape(fields[3]),
                    path=_unescape(fields[4]),
                    options=frozenset(fields[5].split(",")),
                    propagation=tuple(fields[6:dash]),
                    fstype=fields[dash + 1],
                    source=_unescape(fields[dash + 2]),
                    super_options=frozenset(fields[dash + 3].split(",")),
                )
            )
        except (ValueError, IndexError):
            continue
    return entries


def read_mounts(mountinfo: str = "/proc/thread-self/mountinfo") -> list[MountEntry]:
    """All mounts that the calling thread sees, or those of another table."""
    with _opened(mountinfo) as file:
        return parse_mountinfo(file.read())


def mounts_below(path: str, mountinfo: str = "/proc/thread-self/mountinfo") -> list[MountEntry]:
    """The mounts at and below `path`, the last made first: the order in which to unmount them.

    `path` is taken as it is written, so the caller resolves symbolic links first.
    """
    prefix = path.rstrip("/") + "/"
    wanted = path.rstrip("/") or "/"
    with _opened(mountinfo) as file:
        # Filtered as text first: on a full node nearly all lines are other pods', and parsing them is the
        # whole cost.
        near = f" {_escape(wanted).rstrip('/')}"
        lines = [line for line in file if near in line]
    found = [
        entry
        for entry in parse_mountinfo("".join(lines))
        if entry.path == wanted or entry.path.startswith(prefix)
    ]
    found.reverse()
    return found


def mount_roots_below(path: str, mountinfo: str = "/proc/thread-self/mountinfo") -> dict[str, str]:
    """What is mounted where below `path`, whose links are not resolved; fast enough for whole nodes.

    By mount point: the root in mountinfo (`net:[4026532212]` of a namespace), or the device of a whole file
    system (`0:57`). Of mounts over each other the last one counts, which comes later in the table.
    """
    prefix = f"{_escape(path.rstrip('/'))}/"
    with _opened(mountinfo) as file:
        mounts = (line.split(" ", 5) for line in file)
        return {
            _unescape(fields[4]): _unescape(fields[3]) if fields[3] != "/" else fields[2]
            for fields in mounts
            if len(fields) > 5 and fields[4].startswith(prefix)
        }


def is_mountpoint(path: str) -> bool:
    """Whether `path` itself (a symbolic link is not followed) is the root of a mount; False when it is
    missing.

    Costs microseconds however long the mount table is: the kernel refuses the step over a mount
    (RESOLVE_NO_XDEV).
    """
    parent, name = os.path.split(path.rstrip("/"))
    if name in {"", ".", ".."}:
        return os.path.ismount(path)
    try:
        parent_fd = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        os.close(libc.openat2(parent_fd, name, os.O_PATH | os.O_NOFOLLOW, resolve=libc.RESOLVE_NO_XDEV))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.EXDEV:
            return True
        raise
    finally:
        os.close(parent_fd)
    return False


class MountChanges:
    """Calls `changed` at the first change after `listen`, and not again before the next `listen`."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        # A change is reported as EPOLLPRI. The table is also readable at any time, which would wake a reader
        # of asyncio without end. So it is watched by an epoll descriptor that asks for nothing else.
        self._changes = select.epoll()
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._changes.register(self._table, select.EPOLLPRI | select.EPOLLET)
        except OSError:
            os.close(self._table)
            raise

    def listen(self) -> None:
        """Begin now; earlier changes are no longer reported."""
        self._changes.poll(0)
        asyncio.get_running_loop().add_reader(self._changes, self._tell)

    def close(self) -> None:
        """Report nothing more."""
        asyncio.get_running_loop().remove_reader(self._changes)
        self._changes.close()
        os.close(self._table)

    def _tell(self) -> None:
        asyncio.get_running_loop().remove_reader(self._changes)
        self._changed()
