"""A data directory whose power can be cut at any moment, and what may be left of it then.

`PowerDisk` is a directory over FUSE that writes down all that is done to it (tests.crash.fuse_disk). Whatever
the daemon does there once, each moment of the log gives a power cut: `after_cut` plays the log up to it and
leaves out what nobody had synced, as a seed says:

* Of a file all is kept up to its last fsync(2). Each later write is kept, dropped or torn: of its sectors of
  512 bytes some are new, the others are what was there before, zeros where nothing was.
* Names are kept in one of two ways. With a journal (ext4, data=ordered) they are kept in order up to some
  moment after the last fsync of anything, as that commits the journal. Without one each directory keeps them
  up to some moment after its own last fsync, whatever became of the others: POSIX promises no more.

Not played: disks that lie about what they have written, and sectors that are neither old nor new.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crib.host import mounts
from tests.crash.fuse_disk import ROOT, Inode, Op

SECTOR = 512
_NAMES = {"make", "link", "unlink", "rename"}
_OWNERS = {"owner", "xattr"}
END_SECONDS = 20.0
BEFORE_BOOT = 86_400
"""Seconds since the epoch: all that a power cut leaves is older than the boot after it."""


class PowerDisk:
    """A mounted directory; `unplug` it at the end, which lets everybody go who waits for it."""

    def __init__(self, place: Path, log: Path) -> None:
        self.place = place
        self._log = log
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.fuse_disk", str(place), str(log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"mounted\n"

    def position(self) -> int:
        """Where the log is now: what was done before is in it."""
        return self._log.stat().st_size

    def read_log(self) -> list[tuple[int, Op]]:
        """Everything that was done, each with the log's position behind it."""
        found: list[tuple[int, Op]] = []
        size = self.position()
        with self._log.open("rb") as file:
            while file.tell() < size:
                op = pickle.load(file)
                found.append((file.tell(), op))
        return found

    def stop(self) -> None:
        """It answers nothing until it is to `go_on`."""
        self._server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    def unplug(self) -> None:
        """Unmount it, and end its server, which aborts whatever still waits."""
        mounts.unmount(str(self.place), lazy=True)
        self._server.kill()
        self._server.wait(END_SECONDS)
        assert self._server.stdout is not None
        self._server.stdout.close()


@contextlib.contextmanager
def plugged_in(place: Path, log: Path) -> Iterator[PowerDisk]:
    disk = PowerDisk(place, log)
    try:
        yield disk
    finally:
        disk.unplug()


def after_cut(log: list[Op], seed: int, place: Path) -> None:
    """Write into `place`, an empty directory, what may be left after all of `log` and then a power cut."""
    draw = random.Random(seed)
    last = {op[1]: number for number, op in enumerate(log) if op[0] == "sync"}
    names = _Names(draw, last, len(log))
    inodes: dict[int, Inode] = {ROOT: Inode(ROOT, stat.S_IFDIR | 0o700)}
    for number, op in enumerate(log):
        kind = op[0]
        if kind == "make":
            _made(inodes, op)
        if kind in _NAMES:
            if names.keeps(number, op):
                _rename(inodes, op)
        elif kind in _OWNERS:
            if number <= last.get(op[1], -1) or draw.random() < 0.5:
                _change_owner(inodes, op)
        elif kind in ("write", "truncate"):
            synced = number <= last.get(op[1], -1)
            _change(inodes[op[1]], op, draw, synced=synced)  # type: ignore[index]  # an inode's number
    _write_out(inodes, ROOT, place)


class _Names:
    """Which changes of names are kept."""

    def __init__(self, draw: random.Random, last: dict[Any, int], end: int) -> None:
        self._draw = draw
        self._last = last
        self._end = end
        self._has_journal = draw.random() < 0.5
        self._committed = draw.randint(max(last.values(), default=0), end)
        self._until: dict[Any, int] = {}

    def keeps(self, number: int, op: Op) -> bool:
        if self._has_journal:
            return number <= self._committed
        return any(number <= self._of(directory) for directory in _directories(op))

    def _of(self, directory: object) -> int:
        if directory not in self._until:
            self._until[directory] = self._draw.randint(self._last.get(directory, 0), self._end)
        return self._until[directory]


def _directories(op: Op) -> tuple[object, ...]:
    return (op[1], op[3]) if op[0] == "rename" else (op[1],)


def _made(inodes: dict[int, Inode], op: Any) -> None:
    _, _, _, number, mode, uid, gid, data, device = op
    inodes[number] = Inode(number, mode, uid, gid, bytearray(data), device=device)


def _rename(inodes: dict[int, Inode], op: Any) -> None:
    """A name that an earlier, lost change would have made or taken away is none to take away or make."""
    match op:
        case ("make", parent, name, number, *_) | ("link", parent, name, number):
            inodes[parent].names[name] = number
        case ("unlink", parent, name):
            inodes[parent].names.pop(name, None)
        case ("rename", parent, name, target, new, number):
            # By its number: the name that it had there may have been lost.
            inodes[parent].names.pop(name, None)
            inodes[target].names[new] = number


def _change_owner(inodes: dict[int, Inode], op: Any) -> None:
    match op:
        case ("owner", number, mode, uid, gid):
            inode = inodes[number]
            inode.mode, inode.uid, inode.gid = mode, uid, gid
        case ("xattr", number, name, None):
            inodes[number].xattrs.pop(name, None)
        case ("xattr", number, name, value):
            inodes[number].xattrs[name] = value


def _change(inode: Inode, op: Any, draw: random.Random, *, synced: bool) -> None:
    fate = "kept" if synced else draw.choice(("kept", "dropped", "torn"))
    if fate == "dropped":
        return
    match op:
        case ("truncate", _, size):
            inode.resize(size)
        case ("write", _, offset, data) if fate == "kept":
            inode.put(offset, data)
        case ("write", _, offset, data):
            at = offset
            while at < offset + len(data):
                end = min(offset + len(data), at - at % SECTOR + SECTOR)
                if draw.random() < 0.5:
                    inode.put(at, data[at - offset : end - offset])
                at = end


def _write_out(inodes: dict[int, Inode], number: int, place: Path) -> None:
    for name, child in inodes[number].names.items():
        inode, path = inodes[child], place / name
        if stat.S_ISDIR(inode.mode):
            path.mkdir()
            _write_out(inodes, child, path)
        elif stat.S_ISLNK(inode.mode):
            path.symlink_to(os.fsdecode(bytes(inode.data)))
        elif stat.S_ISREG(inode.mode):
            path.write_bytes(inode.data)
        else:
            os.mknod(path, inode.mode, inode.device)
        os.lchown(path, inode.uid, inode.gid)
        if not stat.S_ISLNK(inode.mode):
            path.chmod(stat.S_IMODE(inode.mode))
        for key, value in inode.xattrs.items():
            os.setxattr(path, key, value, follow_symlinks=False)
        os.utime(path, (BEFORE_BOOT, BEFORE_BOOT), follow_symlinks=False)
