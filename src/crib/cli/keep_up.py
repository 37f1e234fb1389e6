"""`crib run --foreground`: pods that are kept up by this program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from crib.cli.session import CommandError, say
from crib.client import ClientError, logs
from crib.supervisor.keeper import PodKeeper, Surroundings
from crib.wire.kept import PodReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crib.client import Connection
    from crib.manifest.plan import PodPlan
    from crib.wire.crilog import LogLine
    from crib.wire.kept import ContainerReport

LAST_LINES_SECONDS = 2.0
"""For reading logs to their end once their containers have ended."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Foreground:
    """Keeps pods up in this program, with their logs on standard output, until they end or are stopped."""

    def __init__(self, connection: Connection, plans: Sequence[PodPlan], around: Surroundings) -> None:
        self._connection = connection
        self._plans = plans
        self._around = around
        self._asked: signal.Signals | None = None
        self._stop, self._kill = asyncio.Event(), asyncio.Event()
        names = [self._source(plan, one.name) for plan in plans for one in plan.every_container()]
        self._width = max(map(len, names))

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
                raise CommandError(f"pod {plan.label} has failed: {report.message}", codes[0] if codes else 1)

    def _signalled(self, number: signal.Signals) -> None:
        """The first one stops the pods, the second one kills them."""
        if self._asked is None:
            self._asked = number
            say("stopping; once more kills")
            self._stop.set()
        else:
            self._kill.set()

    async def _keep(self, plan: PodPlan) -> PodReport:
        async with _Logs(plan, self._write) as shown:
            keeper = PodKeeper(self._connection, plan, replace(self._around, told=shown.told), time.time())
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
        return container if len(self._plans) == 1 else f"{plan.name}/{container}"

    def _write(self, plan: PodPlan, container: str, line: LogLine) -> None:
        out = sys.stderr.buffer if line.stream == "stderr" else sys.stdout.buffer
        prefix = f"{self._source(plan, container):<{self._width}} | "
        out.write(prefix.encode() + line.content + b"\n")
        out.flush()


class _Logs:
    """Follows the log of each container of one pod, also of those that are started again."""

    def __init__(self, plan: PodPlan, write: Callable[[PodPlan, str, LogLine], None]) -> None:
        self._plan = plan
        self._write = write
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running: set[str] = set()

    async def __aenter__(self) -> _Logs:
        return self

    async def __aexit__(self, *error: object) -> None:
        """What was written is shown to its end."""
        self._running.clear()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=LAST_LINES_SECONDS)
            for task in late:
                task.cancel()

    def told(self, report: PodReport) -> None:
        """Containers as they are now."""
        self._running = {one.id for one in report.containers if one.state in ("Running", "Starting")}
        for one in report.containers:
            if one.id and one.id not in self._tasks:
                self._tasks[one.id] = asyncio.get_running_loop().create_task(self._follow(one))

    async def _follow(self, one: ContainerReport) -> None:
        path = os.path.join(self._plan.sandbox.log_directory, one.name, f"{one.restarts}.log")
        with contextlib.suppress(ClientError):  # it was removed before it was read
            async for line in logs.follow(path, ended=lambda: one.id not in self._running):
                self._write(self._plan, one.name, line)
