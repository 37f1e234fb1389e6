"""What the supervisor tells of a pod: for `crib kept`, `crib run --foreground` and the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.supervisor.decide import SANDBOX
from crib.wire.kept import ContainerReport, PodReport

if TYPE_CHECKING:
    from collections.abc import Collection

    from crib.manifest.plan import PodPlan
    from crib.supervisor.decide import NextStep, PodMemory
    from crib.supervisor.observation import Observed

CRASH_LOOP = "CrashLoopBackOff"
_NS = 10**9


def report(
    plan: PodPlan, observed: Observed, decision: NextStep, memory: PodMemory, ready: Collection[str]
) -> PodReport:
    """`ready` are the ids of containers that are."""
    problem = decision.message or memory.problems.get(SANDBOX, "")
    found = tuple(
        _of_container(container.name, observed, decision, memory, ready)
        for container in plan.every_container()
    )
    phase = "Starting" if decision.phase == "Pending" else decision.phase
    until = round(decision.waits.get(SANDBOX, 0.0) * _NS)
    sandbox = observed.sandbox
    lost = sandbox is not None and not sandbox.ready and sandbox.id not in memory.released
    return PodReport(plan.uid, phase, problem, sandbox.id if sandbox else "", until, found, lost)


def _of_container(
    name: str, observed: Observed, decision: NextStep, memory: PodMemory, ready: Collection[str]
) -> ContainerReport:
    latest = observed.latest(name) or observed.earlier.get(name)
    number = latest.number if latest is not None else 0
    state, message, probe = "Waiting", memory.problems.get(name, ""), ""
    if latest is not None:
        if latest.state == "running":
            state = "Running" if latest.id in memory.started else "Starting"
            ill = memory.unhealthy.get(latest.id)
            probe = ill.reason if ill is not None else memory.unready.get(latest.id, "")
            message = message or (ill.reason if ill is not None else "")
        elif latest.state == "exited":
            state = f"Exited ({latest.exit_code})"
            message = message or memory.ended_by_us.get(latest.id, "")
    until = decision.waits.get(name, 0.0)
    if until:
        state = CRASH_LOOP
    return ContainerReport(
        name=name,
        id=latest.id if latest is not None else "",
        state=state,
        message=message,
        ready=latest is not None and latest.id in ready,
        restarts=number,
        exit_code=latest.exit_code if latest is not None else 0,
        until=round(until * _NS),
        probe=probe,
    )
