"""File systems on files and block devices: what is there, and make, check and grow one by programs.

Nothing is ever formatted over: `make` is for what `signatures` found empty, and programs that look themselves
are not told otherwise. The programs are those of e2fsprogs, xfsprogs and util-linux. Each call starts one and
takes at most the seconds that it is given; one that hangs in the kernel raises TimeoutError
(`processes.run`).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from crib.host import processes

MAKERS = {"ext4": "mkfs.ext4", "xfs": "mkfs.xfs"}
"""By file system, the program that makes it."""
LEAST = {"ext4": 4 << 20, "xfs": 300 << 20}
"""Bytes that its maker wants; mkfs.xfs refuses less than 300 MiB since 6.0."""
_PROBE_SECONDS = 20.0
_GROW_SECONDS = 300.0
_MAKE_SECONDS = 300.0
_E2FSCK_FINE = 2
"""Its exit codes below say that nothing is wrong any more (e2fsck(8))."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Growth(NamedTuple):
    """The program that makes a mounted file system as large as its device."""

    program: str
    takes_device: bool


_GROWERS = {"ext4": Growth("resize2fs", True), "xfs": Growth("xfs_growfs", False)}


def is_busy(device: str) -> bool:
    """Whether a block device is mounted, or part of a volume group, an array or swap. OSError; may hang."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return True
    return False


def size_of(path: str) -> int:
    """Bytes of a regular file or a block device. OSError; may hang."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


async def signatures(path: str, owner: str) -> Sequence[str]:
    """What of file systems, partition tables, members of arrays and so on is on it; none: nobody used it.

    OSError, ProgramFailed.
    """
    argv = ["wipefs", "--no-act", "--json", path]
    done = (await _run(argv, _PROBE_SECONDS, owner)).check()
    if not done.stdout.strip():
        return ()
    return tuple(one["type"] for one in json.loads(done.stdout)["signatures"])


async def make(fs_type: str, path: str, owner: str, *, is_file: bool) -> None:
    """Format a file or a device. Only for what has no signature. OSError, ProgramFailed."""
    argv = [MAKERS[fs_type]]
    # What is reserved for root is of no use where no daemon of the host writes.
    argv += ["-q", "-m", "0"] if fs_type == "ext4" else ["-q"]
    if fs_type == "ext4" and is_file:
        argv.append("-F")  # or it asks whether a file is meant
    (await _run([*argv, path], _MAKE_SECONDS, owner)).check()


async def repair(fs_type: str, device: str, owner: str, seconds: float) -> None:
    """Before it is mounted: what can be repaired without a person is. XFS does that itself, as it is mounted.

    ProgramFailed when a person has to decide.
    """
    if fs_type != "ext4":
        return
    done = await _run(["e2fsck", "-p", device], seconds, owner)
    if done.timed_out or not 0 <= done.exit_code < _E2FSCK_FINE:
        raise processes.ProgramFailed(done)


async def errors(fs_type: str, path: str, owner: str, seconds: float) -> str:
    """What is wrong with a file system that is not mounted; nothing is changed. ToolMissing."""
    argv = ["e2fsck", "-n", "-f"] if fs_type == "ext4" else ["xfs_repair", "-n", "-f"]
    done = await _run([*argv, path], seconds, owner)
    if done.timed_out:
        return f"{done.argv[0]} did not come to an end within {seconds:.0f} s"
    if done.exit_code == 0:
        return ""
    words = (done.stdout or done.stderr).decode("utf-8", "replace").strip().splitlines()
    return words[-1] if words else f"{done.argv[0]} ended with exit code {done.exit_code}"


async def grow(fs_type: str, device: str, mounted: str, owner: str) -> None:
    """Have the mounted file system fill its device; does nothing when it does already. ProgramFailed."""
    name, takes_device = _GROWERS[fs_type]
    argv = [name, device if takes_device else mounted]
    (await _run(argv, _GROW_SECONDS, owner)).check()


async def _run(argv: Sequence[str], seconds: float, owner: str) -> processes.Completed:
    options = processes.RunOptions(owner=owner)
    return await processes.run(argv, timeout=seconds, env={"PATH": _PATH, "LC_ALL": "C"}, options=options)
