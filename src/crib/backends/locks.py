"""What only one cribd of a host may have: its directories, the pods' parent cgroup, the bridge."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Iterator

from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.slices import start_slice
from crib.backends.records.database import LockNotes
from crib.host import cgroups
from crib.model.errors import Broken
from crib.model.settings import Settings

LOCK_BYTES = 32


@contextlib.contextmanager
def own_cgroup(root: str, layout: cgroups.CgroupLayout) -> Iterator[None]:
    """Hold the pods' parent cgroup: whatever is in it and not in our records is swept away."""
    made = filter(os.path.isdir, cgroups.Cgroups(layout).directories(root))
    fd = os.open(next(made, root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _try_lock(fd):
            raise Broken(f"another cribd has its pods in cgroup {root}: give this one its own cgroup_root")
        yield
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def pods_cgroup(settings: Settings, layout: cgroups.CgroupLayout, *, made: bool) -> AsyncIterator[None]:
    """Make the pods' parent cgroup, if it is to be `made`, and hold it; an empty one goes at the end."""
    names, tree = CgroupNames.of(settings), cgroups.Cgroups(layout)
    if not names.systemd:
        tree.create(names.own)
    elif made:
        await start_slice(os.path.basename(names.own))
    try:
        with own_cgroup(names.own, layout):
            yield
    finally:
        if not names.systemd:
            tree.remove_if_empty(names.own)


@contextlib.contextmanager
def own_bridge(name: str) -> Iterator[None]:
    """Hold the bridge: pods on it that are not in our records are swept away, and their addresses are ours.

    By a file that only root can open: a socket's name could be taken by any pod of the host's network.
    """
    namespace = os.stat("/proc/self/ns/net").st_ino  # a bridge's name is of its network namespace
    path = f"/run/crib-bridge-{name}-{namespace}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try_lock(fd) or os.fstat(fd).st_nlink == 0:  # held, or let go and removed just now
            text = f"another cribd has its pods on bridge {name}: give this one its own bridge and subnet"
            raise Broken(f"network.bridge: {text}")
        try:
            yield
        finally:
            os.unlink(path)
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(path: str) -> Iterator[LockNotes]:
    """Hold a lock file; Broken when another cribd does (grpc would let two servers bind one socket).

    Its content, the pid and a word that is never the same, shows whether somebody else held it meanwhile. On
    a disk that takes no writes it stays as it is.
    """
    fd = _open_lock(path)
    try:
        before = _held_by(fd)
        if not _try_lock(fd):
            raise Broken(f"another cribd (pid {before.partition(' ')[0]}) holds {path}")
        with contextlib.suppress(OSError):
            # Over the old one, and not after a truncation: a full disk has no room for what was just freed.
            os.pwrite(fd, f"{os.getpid()} {secrets.token_hex(8)}\n".ljust(LOCK_BYTES).encode(), 0)
        yield LockNotes(before, _held_by(fd))
    finally:
        os.close(fd)


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for flock(2)


def _held_by(fd: int) -> str:
    return os.pread(fd, LOCK_BYTES, 0).decode(errors="replace").strip()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
