"""Shims as processes: found by their arguments, ended, and their sockets removed."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator

from crib.backends.known_processes import is_alive
from crib.backends.shim.bootstrap import ShimProgram
from crib.host.pidfds import open_pidfd, signal_process, start_time, wait_pidfd
from crib.model.errors import Broken
from crib.model.sandbox import ProcessIdentity

_COMMAND_BYTES = 1 << 16
_KILL_TIME = 5.0
"""Seconds from SIGKILL to the end of a shim."""


def shims_of(program: ShimProgram) -> Iterator[tuple[str, ProcessIdentity]]:
    """All that were started for our handler, by the ids that they were started with. Blocks."""
    address = program.address.encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or is something else
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read(_COMMAND_BYTES).split(b"\0")
            instance = words[words.index(b"-id") + 1]
            started = start_time(int(name))
            if words[words.index(b"-address") + 1] == address and started is not None:
                yield os.fsdecode(instance), ProcessIdentity(int(name), started)


def find_shims(program: ShimProgram, instance: str) -> list[ProcessIdentity]:
    """Those that were started with this id. Blocks."""
    return [process for owner, process in shims_of(program) if owner == instance]


async def ended(process: ProcessIdentity, seconds: float) -> bool:
    """Whether it has ended, or does so in this time."""
    try:
        pidfd = open_pidfd(process.pid)
    except ProcessLookupError:
        return True
    try:
        return not is_alive(process) or await wait_pidfd(pidfd, seconds)
    finally:
        os.close(pidfd)


async def kill(what: str, process: ProcessIdentity) -> None:
    """Broken if it survives."""
    signal_process(process.pid, signal.SIGKILL, process.start_time)
    if not await ended(process, _KILL_TIME):
        raise Broken(f"{what}: its shim (pid {process.pid}) does not die")


def check_private(path: str) -> None:
    """Broken if others than root may connect to a socket. Blocks."""
    own, around = os.stat(path), os.stat(os.path.dirname(path))
    if not stat.S_ISSOCK(own.st_mode):
        raise Broken(f"the shim's address {path} is no socket")
    others = stat.S_IRWXG | stat.S_IRWXO
    if own.st_uid != os.geteuid() or (own.st_mode & others and around.st_mode & others):
        raise Broken(f"others than root may connect to the shim's socket {path}")


def remove_sockets(program: ShimProgram, instance: str, *paths: str) -> None:
    """Those at `paths`, and where the instance's shim is usually. It has ended. Safe to repeat. Blocks."""
    for path in (*paths, *program.usual_sockets(instance)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
