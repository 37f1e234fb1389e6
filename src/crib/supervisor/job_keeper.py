"""One Job that is kept up: its pods are, as many at a time as it says, until it has ended for good."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from crib.client import kept, lookup
from crib.client.errors import ClientError
from crib.client.workloads import files
from crib.client.workloads.jobs import pods_of
from crib.client.workloads.removal import remove_pod
from crib.stubs.node.v1.node_pb2 import KeptPod
from crib.supervisor.job_decide import JobNow, JobTry, decide_job, progress
from crib.supervisor.job_record import JobRecord, has_record, read_record, write_record
from crib.supervisor.keeper import RETRY, PodKeeper, Surroundings
from crib.wire.kept import ContainerReport, PodReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crib.client.connection import Connection
    from crib.manifest.plan import JobPlan, JobTurn, PodPlan
    from crib.supervisor.job_decide import JobStep


SUSPENDED = "Suspended"
"""The phase of a Job that waits for somebody to start it."""


@dataclass(slots=True)
class _Active:
    """A try whose pod is kept up, and what its keeper told last."""

    plan: PodPlan
    keeper: PodKeeper
    task: asyncio.Task[PodReport]
    report: PodReport


class JobKeeper:
    """Keeps the pods of one Job up; what has succeeded is on disk, and is never done again."""

    def __init__(
        self, connection: Connection, plan: JobPlan, surroundings: Surroundings, since: float
    ) -> None:
        """`since`: when somebody asked for it, in seconds since the epoch."""
        self._connection = connection
        self._plan = plan
        self._around = surroundings
        self._since = since
        self._directory = surroundings.dirs.pod(plan.uid)
        self._record = JobRecord(since)
        self._active: dict[JobTurn, _Active] = {}
        self._failed: tuple[ContainerReport, ...] = ()  # of the last try that failed
        self._stirred = asyncio.Event()
        self._last = PodReport(plan.uid, "Starting")

    def stir(self) -> None:
        """Something may have happened to one of its pods: look at all of them now."""
        for one in self._active.values():
            one.keeper.stir()

    async def run(self) -> PodReport:
        """Keep it up; its last report once it has ended for good. Cancel it to leave its pods as they are."""
        try:
            while True:
                try:
                    await self._take_record()
                    while not self._record.phase:
                        await self._step()
                    self._tell(self._record.phase, self._record.message)
                    return self._last
                except (ClientError, OSError, ValueError) as error:
                    self._tell(self._last.phase, str(error))
                    await asyncio.sleep(RETRY)
        finally:
            await self._leave()

    async def run_on(self) -> None:
        """The same, for who learns of the end by the reports; then it is removed, if it says so."""
        await self.run()
        if self._plan.ttl is None or self._record.phase == SUSPENDED:
            return
        await asyncio.sleep(max(self._record.finished + self._plan.ttl - self._around.clock(), 0.0))
        while True:
            try:
                await self._expire()
                return
            except (ClientError, OSError) as error:
                self._tell(self._last.phase, str(error))
                await asyncio.sleep(RETRY)

    async def stop(self, grace: int) -> None:
        """Stop its pods, however long that takes; `grace` in seconds, -1 for each pod's own."""
        self._tell("Stopping")
        self._record = await asyncio.to_thread(read_record, self._directory, self._since)
        await self._stop_pods(grace)
        self._tell("Stopped", progress(self._plan, self._record.tries))

    async def _take_record(self) -> None:
        """Read what there is of this life. A suspended Job has none before somebody starts it."""
        self._record = await asyncio.to_thread(read_record, self._directory, self._since)
        if self._plan.suspended and not await asyncio.to_thread(has_record, self._directory):
            await self._write(phase=SUSPENDED)

    async def _step(self) -> None:
        self._stirred.clear()
        await self._collect()
        now = self._around.clock()
        restarts = {
            turn: sum(container.restarts for container in one.report.containers)
            for turn, one in self._active.items()
        }
        step = decide_job(
            self._plan, self._record.tries, JobNow(now, self._since, restarts, self._around.pauses)
        )
        if step.is_final:
            await self._finish(step)
            return
        if step.starts:
            begun = tuple(JobTry(turn.run, turn.attempt, now) for turn in step.starts)
            await self._write(tries=(*self._record.tries, *begun))
        for one in self._record.tries:
            if not one.ended and one.turn not in self._active:
                self._begin(one)
        has_begun = any(one.report.phase != "Starting" for one in self._active.values())
        has_begun |= any(one.ended for one in self._record.tries) or self._last.phase == "Running"
        self._tell("Running" if has_begun else "Starting", step.message)
        await self._wait(None if step.wake is None else step.wake - now)

    async def _collect(self) -> None:
        """Write down what has ended since the last look."""
        ended = {turn: one.task.result() for turn, one in self._active.items() if one.task.done()}
        if not ended:
            return
        now = self._around.clock()
        tries = tuple(
            self._over(one, ended[one.turn], now) if one.turn in ended and not one.ended else one
            for one in self._record.tries
        )
        await self._write(tries=tries)
        for turn, report in ended.items():
            one = self._active.pop(turn)
            if report.phase == "Failed":
                self._failed = tuple(_named(one.plan, report))
                self._around.listener.note(f"{self._plan.label}: pod {one.plan.name}: {report.message}")

    def _over(self, one: JobTry, report: PodReport, now: float) -> JobTry:
        """The try with its end, and what that means for the Job."""
        if report.phase == "Succeeded":
            return structs.replace(one, ended=now, succeeded=True)
        ends = {container.name: container.exit_code for container in report.containers}
        verdict, why = self._plan.policy.verdict(ends, disrupted=report.lost)
        pod = self._active[one.turn].plan.name
        if why:
            self._around.listener.note(f"{self._plan.label}: pod {pod}: {why}")
        told = f"pod {pod}: {why}" if verdict == "FailJob" else ""
        return structs.replace(one, ended=now, verdict=verdict, why=told)

    def _begin(self, one: JobTry) -> None:
        plan = self._plan.pod_of(one.turn)
        around = replace(self._around, told=partial(self._hear, one.turn))
        keeper = PodKeeper(self._connection, plan, around, one.started)
        task = asyncio.get_running_loop().create_task(keeper.run())
        task.add_done_callback(lambda _: self._stirred.set())
        self._active[one.turn] = _Active(plan, keeper, task, PodReport(plan.uid, "Starting"))

    def _hear(self, turn: JobTurn, report: PodReport) -> None:
        if (one := self._active.get(turn)) is not None:
            one.report = report
            self._around.told_of_pod(one.plan, report)
            self._stirred.set()

    async def _finish(self, step: JobStep) -> None:
        await self._stop_pods(-1)
        now = self._around.clock()
        tries = tuple(one if one.ended else structs.replace(one, ended=now) for one in self._record.tries)
        await self._write(tries=tries, finished=now, phase=step.phase, message=step.message)

    async def _stop_pods(self, grace: int) -> None:
        """Stop the pods of all tries that are active, each by a keeper that does nothing else."""
        await self._leave()
        around = replace(self._around, told=lambda report: None)
        async with asyncio.TaskGroup() as group:
            for one in self._record.tries:
                if not one.ended:
                    plan = self._plan.pod_of(one.turn)
                    keeper = PodKeeper(self._connection, plan, around, one.started)
                    group.create_task(keeper.stop(grace))

    async def _leave(self) -> None:
        """Leave the pods as they are."""
        tasks = [one.task for one in self._active.values()]
        self._active.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _expire(self) -> None:
        """Remove its pods, and have it forgotten: from then on nobody knows of it."""
        for pod in pods_of(self._plan.label, await lookup.pods(self._connection)):
            await remove_pod(self._connection, pod, self._around.dirs)
        self._around.listener.note(f"{self._plan.label}: removed {self._plan.ttl} s after its end")
        try:
            await kept.forget(self._connection, KeptPod(namespace=self._plan.namespace, name=self._plan.name))
        finally:  # whoever forgets it ends this task
            files.remove(self._around.dirs, self._plan.uid)

    async def _write(self, **changes: object) -> None:
        record = structs.replace(self._record, **changes)
        await asyncio.to_thread(write_record, self._directory, record)
        self._record = record

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else max(seconds, 0.0)):
                await self._stirred.wait()

    def _tell(self, phase: str, message: str = "") -> None:
        containers = tuple(
            container for one in self._active.values() for container in _named(one.plan, one.report)
        )
        told = PodReport(self._plan.uid, phase, message, containers=containers or self._failed)
        if told != self._last:
            self._last = told
            self._around.told(told)


def _named(plan: PodPlan, report: PodReport) -> Iterator[ContainerReport]:
    """Its containers with the pod's name before theirs."""
    for one in report.containers:
        problem = one.message or report.message
        yield structs.replace(one, name=f"{plan.name}/{one.name}", message=problem)
