"""Programs that outlived the daemon that ran them, because it was killed.

Each is run with `marks` in its environment, which its children inherit. The marks identify it later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

from crib.host.threads import OURS, Job

_OWNER = "CRIB_OWNER"
_PROGRAM = "CRIB_PROGRAM"
_PAUSE = 0.01
_BYTES = 1 << 18


def marks(owner: str, program: str) -> dict[str, str]:
    """Variables for the environment of `program` (a path), by which the `owner`'s next life knows it."""
    return {_OWNER: owner, _PROGRAM: program}


async def end_programs(owner: str, *, timeout: float) -> int:
    """Kill the programs that were run with this owner's marks; returns how many there were.

    Everything in a process group that such a program leads is killed too. A server that it left behind on
    purpose, in its own process group, stays. TimeoutError if one does not die within `timeout` seconds.
    """
    job = Job(f"looking in /proc for programs of {owner}", owner, timeout)
    leaders = await OURS.run(job, _leaders, owner)
    async with asyncio.timeout(timeout):
        for leader in leaders:
            while await OURS.run(job, _lives, leader):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(leader, signal.SIGKILL)
                await asyncio.sleep(_PAUSE)
    return len(leaders)


def programs_with(*arguments: str) -> list[int]:
    """Processes that were run with these arguments, one after the other among theirs."""
    wanted = b"\0" + b"".join(os.fsencode(word) + b"\0" for word in arguments)
    return [pid for pid in _pids() if wanted in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(_BYTES)
    return b""


def _leaders(owner: str) -> list[int]:
    return [pid for pid in _pids() if _group(pid) == pid and _is_marked(pid, owner)]


def _is_marked(pid: int, owner: str) -> bool:
    """Whether it is the program of its marks, run without arguments (a script is its interpreter's last)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read(_BYTES).split(b"\0")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            program = os.fsdecode(file.read(_BYTES).rstrip(b"\0").split(b"\0")[-1])
    except OSError:  # it has ended
        return False
    return all(os.fsencode(f"{key}={value}") in environment for key, value in marks(owner, program).items())


def _lives(group: int) -> bool:
    return any(_group(pid) == group for pid in _pids())


def _group(pid: int) -> int:
    """A running process's group; 0 of one that has ended (proc(5), stat fields 3 and 5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(4096)
    except OSError:
        return 0
    state, _parent, group = stat[stat.rindex(b")") + 2 :].split()[:3]
    return 0 if state in {b"Z", b"X"} else int(group)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
