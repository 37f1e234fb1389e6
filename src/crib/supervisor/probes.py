"""The probes of one pod's running containers: a task for each, as long as its container runs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from crib.client.workloads.probers import ProbeTarget, ask, first_result
from crib.client.workloads.probing import ProbeTally
from crib.supervisor.decide import Unhealthy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from crib.client.connection import Connection
    from crib.manifest.behaviour_plan import ProbePlan
    from crib.manifest.plan import ContainerPlan
    from crib.supervisor.decide import PodMemory
    from crib.supervisor.observation import Attempt


class Probes:
    """Writes into the memory what is started and what is unhealthy; `stir` is called when that changes."""

    def __init__(self, connection: Connection, memory: PodMemory, stir: Callable[[], None]) -> None:
        self._connection = connection
        self._memory = memory
        self._stir = stir
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._up: dict[str, asyncio.Event] = {}
        self.ready: set[str] = set()
        """Ids of containers that are ready."""

    def follow(self, plan: ContainerPlan, attempt: Attempt, address: str) -> None:
        """Probe a container whose postStart hook is over; nothing happens where that is done already."""
        if attempt.id in self._tasks:
            return
        target = ProbeTarget(self._connection, attempt.id, address)
        tasks = self._tasks[attempt.id] = []
        up = self._up[attempt.id] = asyncio.Event()
        wanted = plan.behaviour
        if wanted.startup is None:
            self._is_up(attempt.id, plan)
        else:
            tasks.append(self._task(self._startup(target, plan, wanted.startup, attempt)))
        if wanted.liveness is not None:
            tasks.append(self._task(self._liveness(target, wanted.liveness, attempt, up)))
        if wanted.readiness is not None:
            tasks.append(self._task(self._readiness(target, wanted.readiness, attempt, up)))

    def keep_only(self, running: set[str]) -> None:
        """End the probes of containers that do not run any more."""
        for container in self._tasks.keys() - running:
            for task in self._tasks.pop(container):
                task.cancel()
            del self._up[container]
            self.ready.discard(container)
            self._memory.started.discard(container)
            self._memory.unready.pop(container, None)

    def close(self) -> None:
        """End all probes."""
        self.keep_only(set())

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def _is_up(self, container: str, plan: ContainerPlan) -> None:
        self._memory.started.add(container)
        self._up[container].set()
        if plan.behaviour.readiness is None:
            self.ready.add(container)
        self._stir()

    async def _startup(
        self, target: ProbeTarget, plan: ContainerPlan, probe: ProbePlan, attempt: Attempt
    ) -> None:
        answer = await first_result(target, probe, _delay(probe, attempt))
        if answer.good:
            self._is_up(attempt.id, plan)
        else:
            reason = f"startup probe failed: {answer.text}"
            self._is_unhealthy(attempt.id, Unhealthy(reason, probe.grace))

    async def _liveness(
        self, target: ProbeTarget, probe: ProbePlan, attempt: Attempt, up: asyncio.Event
    ) -> None:
        await up.wait()
        await asyncio.sleep(_delay(probe, attempt))
        tally = ProbeTally(probe)
        while True:
            answer = await ask(target, probe.action, probe.timeout)
            if tally.take(answer) is False:
                reason = f"liveness probe failed: {answer.text}"
                self._is_unhealthy(attempt.id, Unhealthy(reason, probe.grace))
                return
            await asyncio.sleep(probe.period)

    async def _readiness(
        self, target: ProbeTarget, probe: ProbePlan, attempt: Attempt, up: asyncio.Event
    ) -> None:
        await up.wait()
        await asyncio.sleep(_delay(probe, attempt))
        tally = ProbeTally(probe)
        while True:
            answer = await ask(target, probe.action, probe.timeout)
            result = tally.take(answer)
            if result and attempt.id not in self.ready:
                self.ready.add(attempt.id)
                self._memory.unready.pop(attempt.id, None)
                self._stir()
            elif result is False and attempt.id not in self._memory.unready:
                self.ready.discard(attempt.id)
                self._memory.unready[attempt.id] = f"readiness probe failed: {answer.text}"
                self._stir()
            await asyncio.sleep(probe.period)

    def _is_unhealthy(self, container: str, found: Unhealthy) -> None:
        self._memory.unhealthy[container] = found
        self._stir()


def _delay(probe: ProbePlan, attempt: Attempt) -> float:
    """The initial delay counts from the container's start."""
    return max(0.0, min(attempt.started_at + probe.initial_delay - time.time(), probe.initial_delay))
