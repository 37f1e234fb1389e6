"""What has to happen after a container's start before the next one begins: hook, and a sidecar's startup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client.workloads.hooks import POST_START_SECONDS, run_hook
from crib.client.workloads.probers import first_result

if TYPE_CHECKING:
    from crib.client.workloads.probers import ProbeTarget
    from crib.manifest.plan import ContainerPlan


async def begin(target: ProbeTarget, plan: ContainerPlan) -> str:
    """Run the hook, and wait for a sidecar to be up; what went wrong, or nothing."""
    if plan.behaviour.post_start is not None:
        problem = await run_hook(target, plan.behaviour.post_start, POST_START_SECONDS)
        if problem:
            return f"postStart hook: {problem}"
    if plan.sidecar and plan.behaviour.startup is not None:
        probe = plan.behaviour.startup
        answer = await first_result(target, probe, probe.initial_delay)
        return "" if answer.good else f"startup probe failed: {answer.text}"
    return ""
