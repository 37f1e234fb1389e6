"""The end of a pod with its hooks, in Kubernetes' order, within one grace period.

The pod's own containers end first, all at the same time; then its sidecars, one after the other, the last
first. A preStop hook runs before the stop signal and takes its time from the same grace period.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from crib.client import lookup
from crib.client import pods as client_pods
from crib.client.errors import ClientError, NotFound
from crib.client.workloads.hooks import run_hook
from crib.client.workloads.probers import LOOPBACK, ProbeTarget, address_of
from crib.stubs.runtime.v1.api_pb2 import CONTAINER_RUNNING, StopPodSandboxRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crib.client.connection import Connection
    from crib.manifest.plan import ContainerPlan, PodPlan

LEAST_GRACE = 2.0
"""Seconds between the stop signal and SIGKILL that are left when a hook took all of the grace period."""


class PodEnd:
    """Ends containers of one pod, or all of it."""

    def __init__(self, connection: Connection, plan: PodPlan, told: Callable[[str], None]) -> None:
        """`told` gets a line for each hook that failed."""
        self._connection = connection
        self._plan = plan
        self._told = told

    async def end(self, pod_id: str, grace: float) -> None:
        """Stop what runs in the sandbox, then the sandbox. The first error is raised at the end."""
        deadline = time.monotonic() + grace
        running: dict[str, list[str]] = {}
        for container in await lookup.containers(self._connection, pod_id):
            if container.state == CONTAINER_RUNNING:
                running.setdefault(container.metadata.name, []).append(container.id)
        plans = {plan.name: plan for plan in self._plan.every_container()}
        address = await self._address(pod_id)
        failures: list[BaseException] = []
        for names in self._rounds(list(running)):
            ends = (
                self.end_container(
                    ProbeTarget(self._connection, one, address), plans.get(name), deadline, grace
                )
                for name in names
                for one in running[name]
            )
            outcomes = await asyncio.gather(*ends, return_exceptions=True)
            failures += [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        request = StopPodSandboxRequest(pod_sandbox_id=pod_id)
        await self._connection.call(self._connection.runtime.StopPodSandbox, request)
        if failures:
            raise failures[0]

    def _rounds(self, running: list[str]) -> Iterator[list[str]]:
        """Names that end at the same time, round after round."""
        sidecars = [plan.name for plan in self._plan.init_containers if plan.sidecar]
        yield [name for name in running if name not in sidecars]
        for name in reversed(sidecars):
            if name in running:
                yield [name]

    async def end_container(
        self, target: ProbeTarget, plan: ContainerPlan | None, deadline: float, grace: float
    ) -> None:
        """Hook, stop signal, SIGKILL; the last at the deadline on the monotonic clock, or a bit after it."""
        hook = plan.behaviour.pre_stop if plan is not None else None
        if plan is not None and hook is not None and grace > 0:
            left = max(deadline - time.monotonic(), 0.0)
            if problem := await run_hook(target, hook, left):
                self._told(f"container {plan.name}: preStop hook: {problem}")
        least = min(LEAST_GRACE, grace)
        left = max(deadline - time.monotonic(), least)
        try:
            await client_pods.stop_container(self._connection, target.container, round(left))
        except NotFound:
            return  # removed meanwhile

    async def _address(self, pod_id: str) -> str:
        try:
            return await address_of(self._connection, pod_id)
        except ClientError:
            return LOOPBACK  # the pod is half gone: its hooks fail, and are told
