"""crun, which makes containers: started with the streams of what it makes, and asked why it failed."""

from __future__ import annotations

import os

from crib.vm.guest.errors import UNKNOWN, Failure
from crib.vm.guest.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crib.vm.guest.loop import Job

MOST_WORDS = 4096
"""Bytes of what crun says that are passed on."""
IGNORED_BY_PYTHON = (13, 25)
"""SIGPIPE and SIGXFSZ: containers would inherit it."""
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": "/run"}


class Crun:
    """crun with its state in a directory."""

    def __init__(self, loop: Loop, program: str, state: str) -> None:
        self._loop = loop
        self._program = program
        self._root = f"{state}/crun"
        self._logs = f"{state}/crun-logs"
        self._count = 0
        os.makedirs(self._root, 0o700, exist_ok=True)
        os.makedirs(self._logs, 0o700, exist_ok=True)

    def run(self, words: list[str], streams: tuple[int, int, int] | None = None, score: str = "0") -> Job:
        """Run one command to its end, with these three descriptors or none. Failure with crun's own words.

        `score` is the OOM score (proc(5)) of what it starts, unless a spec names one that is not 0: crun
        gives on what it has, and the agent's own keeps the kernel from ever killing it.
        """
        self._count += 1
        log = f"{self._logs}/{self._count}"
        command = [self._program, "--root", self._root, "--cgroup-manager", "cgroupfs", "--log", log, *words]
        try:
            status, _ = yield self._loop.child(self._spawn(command, streams, score))
            if status:
                raise _failure(words[0], status, _words(log))
        finally:
            try:
                os.unlink(log)
            except FileNotFoundError:
                pass

    def version(self) -> Job:
        """What `crun --version` says first, as `1.8.1`."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            child = self._spawn([self._program, "--version"], (null, writing, null), "0")
            os.close(writing)
            yield self._loop.child(child)
            words = os.read(reading, MOST_WORDS).decode(errors="replace").split()
        finally:
            os.close(reading)
            os.close(null)
        return words[2] if len(words) > 2 else ""

    def _spawn(self, command: list[str], streams: tuple[int, int, int] | None, score: str) -> int:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            actions = [
                (os.POSIX_SPAWN_DUP2, source, number) for number, source in enumerate(streams or (null,) * 3)
            ]
            own = _exchange_score(score)
            try:
                return os.posix_spawn(
                    command[0], command, ENVIRONMENT, file_actions=actions, setsigdef=IGNORED_BY_PYTHON
                )
            finally:
                _exchange_score(own)
        finally:
            os.close(null)


def _exchange_score(score: str) -> str:
    """Give this process another OOM score (proc(5)); the one that it had."""
    with open("/proc/self/oom_score_adj", "r+") as file:
        before = file.read().strip()
        file.seek(0)
        file.write(score)
    return before


def _words(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            return file.read(MOST_WORDS)
    except OSError:
        return ""


def _failure(command: str, status: int, log: str) -> Failure:
    """crun's log has lines such as `2024-05-01T10:00:00.123Z: the reason`."""
    lines = [line.partition("Z: ")[2] or line for line in log.splitlines()]
    reason = "; ".join(line for line in lines if line) or f"it ended with {status}"
    return Failure(UNKNOWN, f"crun {command}: {reason}")
