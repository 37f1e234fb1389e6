"""What a pod's life asks of the kernel, call by call: system calls, forks, fsyncs, bytes of SQLite.

    python -m tests.system.labs.syscalls     # as root, with strace: the table of docs/performance.md

strace follows the daemon while whole lives go by, one call at a time. A system call counts for the call of
the CRI during which it began. Those that only wait, or hang on the moment, are not counted.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.system.labs.daemon import Cri, Cribd, running_cribd

T = TypeVar("T")

LIVES = 4
"""The one with the fewest counts for each call: what happens in the background falls into some of them."""
QUIET = "nice = 0"
"""What keeps the daemon from looking at its threads' priorities now and then."""
ATTACH_SECONDS = 60
WAITING = frozenset(
    (
        *("futex", "epoll_wait", "epoll_ctl", "recvfrom", "recvmsg", "getpid", "gettid", "restart_syscall"),
        *("wait4", "waitid", "poll", "clock_nanosleep", "rt_sigreturn", "sched_yield", "madvise", "exit"),
        *("sched_getscheduler", "sched_getparam", "getpriority", "mmap", "munmap", "mprotect", "brk"),
        *("statfs", "set_robust_list", "rseq", "pread64", "fcntl"),
    )
)
"""Not counted: they wait, belong to threads and memory, to the look at priorities, or to SQLite's locks."""
FORKS = frozenset(("fork", "vfork", "clone", "clone3"))
SYNCS = frozenset(("fsync", "fdatasync", "sync_file_range", "syncfs"))
_LINE = re.compile(r"(\d+) +(\d+\.\d+) (?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")
_RESULT = re.compile(r"= (-?\d+)(?: E[A-Z]+ .*)?$")


@dataclass
class Account:
    """Of one call."""

    daemon: Counter[str] = field(default_factory=Counter)
    """System calls of the daemon's threads, by name."""
    programs: int = 0
    """System calls of the programs that it runs."""
    forks: int = 0
    syncs: int = 0
    written: int = 0
    """Bytes that SQLite writes."""

    @property
    def counted(self) -> int:
        return sum(self.daemon.values())


@dataclass(frozen=True)
class _Moment:
    verb: str
    began: float
    ended: float


class Strace:
    """Of a daemon and all that it starts."""

    def __init__(self, pid: int, out: Path) -> None:
        self._pid, self._out = pid, out
        self._threads = {int(name) for name in os.listdir(f"/proc/{pid}/task")}
        self._moments: list[_Moment] = []

    def __enter__(self) -> Strace:
        command = ["strace", "-f", "-ttt", "-s", "0", "-o", str(self._out), "-p", str(self._pid)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "attached" in line:
                break
        else:
            raise AssertionError("strace does not attach")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process.wait(ATTACH_SECONDS)

    async def during(self, verb: str, call: Awaitable[T]) -> T:
        """Note what was done meanwhile as that of `verb`."""
        began = time.time()
        answer = await call
        self._moments.append(_Moment(verb, began, time.time()))
        return answer

    def accounts(self) -> Iterator[tuple[str, Account]]:
        """One for each call, in their order."""
        lines = list(filter(None, map(_LINE.match, self._out.read_text(errors="replace").splitlines())))
        self._note_threads(lines)
        for moment in self._moments:
            account = Account()
            for line in lines:
                if line[4] and moment.began <= float(line[2]) < moment.ended:
                    self._count(account, int(line[1]), line[4], line[5])
            yield moment.verb, account

    def _note_threads(self, lines: Iterable[re.Match[str]]) -> None:
        """Those that began meanwhile. The end of a call may be on a later line than its arguments."""
        beginning: set[str] = set()
        for line in lines:
            if (line[3] or line[4]) not in FORKS or int(line[1]) not in self._threads:
                continue
            if "CLONE_THREAD" in line[5]:
                beginning.add(line[1])
            if line[1] in beginning and (made := _RESULT.search(line[5])) is not None:
                beginning.discard(line[1])
                self._threads.add(int(made[1]))

    def _count(self, account: Account, thread: int, name: str, rest: str) -> None:
        if thread not in self._threads:
            account.programs += 1
        elif name in FORKS:
            account.forks += "CLONE_THREAD" not in rest
        elif name in SYNCS:
            account.syncs += 1
        elif name in ("pwrite64", "pwritev"):
            done = _RESULT.search(rest)
            account.written += int(done[1]) if done else 0
        elif name not in WAITING:
            account.daemon[name] += 1


async def live(cri: Cri, strace: Strace, name: str) -> None:
    """One pod with one container."""
    during = strace.during
    pod = await during("RunPodSandbox", cri.run_pod(name))
    box = await during("CreateContainer", cri.create(pod, "sleep", "1000"))
    await during("StartContainer", cri.start(box))
    await during("ExecSync", cri.execute(box, "true", timeout=30))
    await during("ContainerStatus", cri.status(box))
    await during("StopContainer", cri.stop_container(box))
    await during("RemoveContainer", cri.remove_container(box))
    await during("StopPodSandbox", cri.stop_pod(pod))
    await during("RemovePodSandbox", cri.remove_pod(pod))


def measure(cribd: Cribd, out: Path) -> Mapping[str, Account]:
    """The account of each call: of some lives, the one with the fewest system calls."""
    found: dict[str, list[Account]] = {}

    async def lives() -> None:
        async with cribd.connect() as cri:
            with Strace(cribd.pid, out) as strace:
                for number in range(LIVES):
                    await live(cri, strace, f"life-{number}")
            for verb, account in strace.accounts():
                found.setdefault(verb, []).append(account)

    asyncio.run(lives())
    return {verb: min(accounts, key=lambda each: each.counted) for verb, accounts in found.items()}


def table(found: Mapping[str, Account]) -> str:
    """In Markdown."""
    lines = ["| call | system calls | most of them | of programs | forks | fsyncs | KiB of SQLite |"]
    lines.append("|---|---:|---|---:|---:|---:|---:|")
    for verb, account in found.items():
        most = ", ".join(f"{name} {count}" for name, count in account.daemon.most_common(6))
        figures = (account.programs, account.forks, account.syncs, round(account.written / 1024))
        lines.append(f"| {verb} | {account.counted} | {most} | " + " | ".join(map(str, figures)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    with running_cribd(extra=QUIET) as daemon:
        print(table(measure(daemon, daemon.root / "strace")))
