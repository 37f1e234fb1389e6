"""`crib run --foreground`: pods that are kept up by this program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from crib.cli import colours
from crib.cli.session import CommandError, say
from crib.client import ClientError, logs
from crib.manifest.plan import JobPlan
from crib.supervisor.job_keeper import JobKeeper
from crib.supervisor.keeper import PodKeeper, Surroundings
from crib.wire.kept import PodReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from crib.client import Connection
    from crib.manifest.plan import Plans, PodPlan
    from crib.wire.crilog import LogLine
    from crib.wire.kept import ContainerReport

LAST_LINES_SECONDS = 2.0
"""For reading logs to their end once their containers have ended."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Foreground:
    """Keeps pods up in this program, with their logs on standard output, until they end or are stopped."""

    def __init__(self, connection: Connection, read: Plans, around: Surroundings) -> None:
        self._connection = connection
        self._plans: list[PodPlan | JobPlan] = [*read.jobs, *read.alone()]
        self._around = around
        self._asked: signal.Signals | None = None
        self._stop, self._kill = asyncio.Event(), asyncio.Event()
        self._is_one = len(self._plans) == 1 and not read.jobs
        self._names: list[str] = []
        for plan in read.pods:
            self._know(plan)

    async def run(self) -> None:
        """CommandError when a pod has failed, with its container's exit code, or after a signal."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            async with asyncio.TaskGroup() as group:
                ends = [group.create_task(self._keep(plan)) for plan in self._plans]
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        if self._asked is not None:
            raise CommandError("stopped; crib down removes what is left", 128 + self._asked)
        for plan, end in zip(self._plans, ends, strict=True):
            report = end.result()
            if report.phase == "Failed":
                codes = [one.exit_code for one in report.containers if one.exit_code]
                what = "job" if isinstance(plan, JobPlan) else "pod"
                raise CommandError(
                    f"{what} {plan.label} has failed: {report.message}", codes[0] if codes else 1
                )

    def _signalled(self, number: signal.Signals) -> None:
        """The first one stops the pods, the second one kills them."""
        if self._asked is None:
            self._asked = number
            say("stopping; once more kills")
            self._stop.set()
        else:
            self._kill.set()

    def _keeper(self, plan: PodPlan | JobPlan, shown: _Logs) -> PodKeeper | JobKeeper:
        if isinstance(plan, JobPlan):
            around = replace(self._around, told_of_pod=shown.told)
            return JobKeeper(self._connection, plan, around, time.time())
        around = replace(self._around, told=partial(shown.told, plan))
        return PodKeeper(self._connection, plan, around, time.time())

    async def _keep(self, plan: PodPlan | JobPlan) -> PodReport:
        async with _Logs(self._write) as shown:
            keeper = self._keeper(plan, shown)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(keeper.run())
                stop = group.create_task(self._stop.wait())
                await asyncio.wait((running, stop), return_when=asyncio.FIRST_COMPLETED)
                stop.cancel()
                if running.done():
                    return running.result()
                running.cancel()
                await asyncio.wait((running,))
                ending = group.create_task(keeper.stop(-1))
                kill = group.create_task(self._kill.wait())
                await asyncio.wait((ending, kill), return_when=asyncio.FIRST_COMPLETED)
                kill.cancel()
                if not ending.done():
                    ending.cancel()
                    await keeper.stop(0)
            return PodReport(plan.uid, "Stopped")

    def _source(self, plan: PodPlan, container: str) -> str:
        return container if self._is_one else f"{plan.name}/{container}"

    def _know(self, plan: PodPlan) -> None:
        names = [self._source(plan, one.name) for one in plan.every_container()]
        self._names += [name for name in names if name not in self._names]
        self._width = max(map(len, self._names))

    def _write(self, plan: PodPlan, container: str, line: LogLine) -> None:
        stream = sys.stderr if line.stream == "stderr" else sys.stdout
        name = self._source(plan, container)
        if name not in self._names:
            self._know(plan)  # a pod of a Job that came later
        prefix = colours.of_one(f"{name:<{self._width}} |", self._names.index(name), stream)
        stream.buffer.write(f"{prefix} ".encode() + line.content + b"\n")
        stream.buffer.flush()


class _Logs:
    """Follows the log of each container of a pod or of a Job's pods, also after a restart."""

    def __init__(self, write: Callable[[PodPlan, str, LogLine], None]) -> None:
        self._write = write
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, set[str]] = {}  # ids of containers by the pod's uid

    async def __aenter__(self) -> _Logs:
        return self

    async def __aexit__(self, *error: object) -> None:
        """What was written is shown to its end."""
        self._running.clear()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=LAST_LINES_SECONDS)
            for task in late:
                task.cancel()

    def told(self, plan: PodPlan, report: PodReport) -> None:
        """Containers as they are now."""
        running = {one.id for one in report.containers if one.state in ("Running", "Starting")}
        self._running[plan.uid] = running
        for one in report.containers:
            if one.id and one.id not in self._tasks:
                self._tasks[one.id] = asyncio.get_running_loop().create_task(self._follow(plan, one))

    async def _follow(self, plan: PodPlan, one: ContainerReport) -> None:
        path = os.path.join(plan.sandbox.log_directory, one.name, f"{one.restarts}.log")

        def ended() -> bool:
            return one.id not in self._running.get(plan.uid, ())

        with contextlib.suppress(ClientError):  # it was removed before it was read
            async for line in logs.follow(path, ended=ended):
                self._write(plan, one.name, line)
