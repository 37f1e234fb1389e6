"""The supervisor as a child of the daemon's: started while it is wanted, and again with pauses when it ends.

It reads lines on its standard input (look at the units again) and ends with it, so that it never outlives the
daemon; its standard output has reports. Containers are no children of its.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import crib
from crib.backends.images.worker_log import WorkerLog
from crib.host import processes
from crib.host.streams import Source
from crib.tasks.keeper import HANDS
from crib.wire.kept import MAX_REPORT, PodReport, decode_report

_log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
MOST_PAUSE = 30.0
"""Seconds until it is started again; the pause doubles from the first to the most."""
GOOD_RUN = 60.0
"""Seconds of running after which the pause is the first one again."""
END_SECONDS = 5.0
"""That it gets to end by itself."""
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from crib.supervisor.program import main; main()"


@dataclass(slots=True)
class _Process:
    child: processes.Child
    orders: int
    """Our end of its standard input."""


class SupervisorChild:
    """At most one process at a time."""

    def __init__(self, endpoint: str, directory: str, told: Callable[[PodReport], None]) -> None:
        """`directory` has the units; each report goes to `told`."""
        self._arguments = ["--endpoint", endpoint, "--kept", directory]
        self._told = told
        self._process: _Process | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.problem = ""
        """Why it does not run although it is wanted."""
        self.changed: Callable[[str], None] = lambda problem: None
        """Called with each new problem, and with an empty one when it is over."""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.child.pid

    def want(self) -> None:
        """There are units, or they have changed: have it look."""
        self._wanted.set()
        if self._task is None:
            self._task = HANDS.serve("supervisor", self._run())
        if self._process is not None:
            with contextlib.suppress(OSError):  # it has ended, or has not read the last lines yet
                os.write(self._process.orders, b"look\n")

    async def close(self) -> None:
        """End it; what it keeps up goes on running."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began = time.monotonic()
            try:
                code = await self._once()
            except OSError as error:
                self._is(f"the supervisor cannot be started: {error}")
            else:
                if code == 0:
                    continue  # there was nothing left to keep up
                self._is(f"the supervisor ended ({'exit code' if code > 0 else 'signal'} {abs(code)})")
            if time.monotonic() - began >= GOOD_RUN:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)
            self._wanted.set()

    async def _once(self) -> int:
        """From its start to its end; its exit code."""
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        reports, their_reports = os.pipe2(os.O_CLOEXEC)
        source = Source(reports)
        log = WorkerLog(lambda line: _log.info("supervisor: %s", line))
        options = processes.SpawnOptions(
            stdin=theirs, stdout=their_reports, stderr=log.worker_end, cwd="/", new_session=True
        )
        root = os.path.dirname(os.path.dirname(os.path.abspath(crib.__file__)))
        try:
            child = processes.spawn([sys.executable, "-c", _START, root, *self._arguments], options)
        except BaseException:
            os.close(ours)
            source.close()
            raise
        finally:
            os.close(theirs)
            os.close(their_reports)
            log.start()
        _log.debug("supervisor started, pid %d", child.pid)
        self._process = _Process(child, ours)
        try:
            await self._read(source)
            return await child.wait(END_SECONDS)
        except TimeoutError:
            return -9  # it closed its output, and stays: it is killed
        finally:
            self._process = None
            os.close(ours)  # it ends by itself now
            source.close()
            await _ended(child)
            log.close()

    async def _read(self, source: Source) -> None:
        rest = b""
        while data := await source.read():
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MAX_REPORT:
                raise OSError(f"a report of more than {MAX_REPORT} bytes")
            for line in lines:
                try:
                    report = decode_report(line)
                except ValueError as error:
                    _log.error("the supervisor's report cannot be read: %s", error)
                    continue
                self._is("")
                self._told(report)

    def _is(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self.changed(problem)


async def _ended(child: processes.Child) -> None:
    """Wait for its end; kill it when it takes too long."""
    with contextlib.suppress(TimeoutError):
        await child.wait(END_SECONDS)
        return
    child.kill()
    with contextlib.suppress(TimeoutError):
        await child.wait(END_SECONDS)
