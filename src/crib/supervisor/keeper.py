"""One pod that is kept up: look, decide, act, wait, and again."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from msgspec import structs

from crib.client import pods as client_pods
from crib.client.errors import ClientError, NotFound
from crib.client.pods import Pod
from crib.client.workloads import files, pod_volumes, user_ids
from crib.client.workloads.containers import start_container
from crib.client.workloads.ending import PodEnd
from crib.client.workloads.hooks import POST_START_SECONDS, run_hook
from crib.client.workloads.images import PodImages
from crib.client.workloads.probers import ProbeTarget, address_of
from crib.stubs.runtime.v1.api_pb2 import PodSandboxConfig, RemoveContainerRequest, StopPodSandboxRequest
from crib.supervisor.backoff import Pauses
from crib.supervisor.decide import (
    SANDBOX,
    Action,
    DropSandbox,
    EndSandbox,
    Kill,
    MakeSandbox,
    NextStep,
    PodMemory,
    Remove,
    Start,
    decide,
)
from crib.supervisor.observation import Observed, observe
from crib.supervisor.probes import Probes
from crib.supervisor.reports import report
from crib.wire.kept import PodReport

if TYPE_CHECKING:
    from crib.client.connection import Connection
    from crib.client.workloads.start import Listener
    from crib.manifest.plan import ContainerPlan, Dirs, PodPlan

LOOK_AGAIN = 1.0
"""Seconds between two looks at a pod of which no event came: a runtime may have none, or lose one."""
RETRY = 1.0
"""Seconds after which a runtime that does not answer is asked again."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Whom a keeper works for: where pods' files are, who is shown what, and how long pauses are."""

    dirs: Dirs
    listener: Listener
    told: Callable[[PodReport], None] = lambda told: None
    pauses: Pauses = field(default_factory=Pauses)
    clock: Callable[[], float] = time.time
    told_of_pod: Callable[[PodPlan, PodReport], None] = lambda plan, told: None
    """Of the pods of Jobs, which come and go."""


class PodKeeper:
    """Keeps one pod up until it has ended for good; then nothing of it runs."""

    def __init__(
        self, connection: Connection, plan: PodPlan, surroundings: Surroundings, since: float
    ) -> None:
        """`since`: when somebody asked for it, in seconds since the epoch."""
        self._connection = connection
        self._plan = _pulling_what_is_missing(plan)
        self._around = surroundings
        self._memory = PodMemory(since=since, pauses=surroundings.pauses)
        self._stirred = asyncio.Event()
        self._probes = Probes(connection, self._memory, self.stir)
        self._end = PodEnd(connection, plan, self._note)
        self._has_images = False
        self._placed: PodPlan | None = None  # with the paths of its volumes and its user ids
        self._address = ""
        self._last = PodReport(plan.uid, "Starting")

    def stir(self) -> None:
        """Something may have happened to the pod: look at it now."""
        self._stirred.set()

    async def run(self) -> PodReport:
        """Keep it up; its last report once it has ended for good. Cancel it to leave the pod as it is."""
        try:
            while True:
                try:
                    decision = await self._step()
                    if decision.is_final:
                        await self.end(self._plan.behaviour.grace)
                        return self._last
                except (ClientError, OSError) as error:
                    self._tell(structs.replace(self._last, message=str(error)))
                    await self._pause(RETRY)
        finally:
            self._probes.close()

    async def run_on(self) -> None:
        """The same, for who learns of the end by the reports."""
        await self.run()

    async def stop(self, grace: int) -> None:
        """Stop the pod, however long that takes; `grace` in seconds, -1 for the pod's own."""
        seconds = self._plan.behaviour.grace if grace < 0 else grace
        self._tell(await self._as_it_is("Stopping"))
        while True:
            try:
                await self.end(seconds)
                self._tell(await self._as_it_is("Stopped"))
                return
            except (ClientError, OSError) as error:
                self._tell(structs.replace(self._last, message=str(error)))
                await self._pause(RETRY)

    async def _as_it_is(self, phase: str) -> PodReport:
        try:
            observed = await observe(self._connection, self._plan.uid)
        except ClientError:
            return structs.replace(self._last, phase=phase)
        step = NextStep("Running")
        told = report(self._plan, observed, step, self._memory, self._probes.ready)
        return structs.replace(told, phase=phase)

    async def end(self, grace: float) -> None:
        """Stop the pod with its hooks. ClientError."""
        self._probes.close()
        observed = await observe(self._connection, self._plan.uid)
        if observed.sandbox is not None and (observed.sandbox.ready or observed.running()):
            await self._end.end(observed.sandbox.id, grace)

    async def _step(self) -> NextStep:
        self._stirred.clear()
        observed = await observe(self._connection, self._plan.uid)
        await self._follow(observed)
        decision = decide(self._plan, observed, self._memory, self._around.clock())
        self._tell(report(self._plan, observed, decision, self._memory, self._probes.ready))
        for action in decision.actions:
            await self._act(action, observed)
        if not decision.actions and not decision.is_final:
            pause = LOOK_AGAIN
            if decision.wake is not None:
                pause = min(pause, decision.wake - self._around.clock())
            await self._pause(pause)
        return decision

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(
                max(seconds, 0.0)
            ):  # wait_for may swallow a cancellation (Python 3.11)
                await self._stirred.wait()

    def _tell(self, told: PodReport) -> None:
        if told != self._last:
            self._last = told
            self._around.told(told)

    def _note(self, text: str) -> None:
        self._around.listener.note(f"{self._plan.label}: {text}")

    async def _follow(self, observed: Observed) -> None:
        """Begin and end probes. A container whose start was left in the middle counts as started."""
        running = observed.running()
        self._probes.keep_only({attempt.id for attempt in running})
        if running and observed.sandbox is not None and not self._address:
            self._address = await address_of(self._connection, observed.sandbox.id)
        plans = {plan.name: plan for plan in self._plan.every_container()}
        for attempt in running:
            if attempt.name in plans:
                self._probes.follow(plans[attempt.name], attempt, self._address)

    async def _act(self, action: Action, observed: Observed) -> None:
        match action:
            case MakeSandbox(attempt):
                await self._make_sandbox(attempt)
            case Start(plan, number):
                await self._start(plan, number, observed)
            case Kill(plan, container, reason, grace):
                await self._kill(plan, container, reason, grace)
            case Remove(container):
                await self._remove(container, observed)
            case EndSandbox(sandbox):
                await self._release(sandbox, observed)
            case DropSandbox(sandbox):
                await client_pods.remove(self._connection, sandbox)

    async def _make_sandbox(self, attempt: int) -> None:
        memory = self._memory
        if SANDBOX in memory.failed_at:
            memory.starts(SANDBOX)
        try:
            await asyncio.to_thread(files.restore, self._plan, self._around.dirs)
            await self._bring_images()
            plan = await user_ids.choose(self._connection, await self._attach_volumes())
            config = PodSandboxConfig()
            config.CopyFrom(plan.sandbox)
            config.metadata.attempt = attempt
            pod = await client_pods.run_sandbox(self._connection, config, self._plan.handler)
            if self._plan.hosts is not None:
                addresses = await client_pods.addresses(self._connection, pod.id)
                await asyncio.to_thread(files.write_hosts, self._plan.hosts, addresses)
        except (ClientError, OSError) as error:
            self._failed(SANDBOX, error)
            return
        memory.own.add(pod.id)
        self._placed = plan
        self._address = ""

    async def _attach_volumes(self) -> PodPlan:
        """Give the pod its volumes, also those that it has had before; the plan with their paths."""
        return await pod_volumes.attach(
            self._connection, self._plan, self._around.dirs, self._around.listener.note
        )

    async def _as_made(self, sandbox: str) -> PodPlan:
        """The plan as this sandbox was made of it."""
        if self._placed is None:  # by an earlier supervisor
            self._placed = await user_ids.as_made(self._connection, await self._attach_volumes(), sandbox)
        return self._placed

    async def _bring_images(self) -> None:
        if not self._has_images:
            await PodImages(self._connection, self._plan, self._around.listener.pull).bring()
            self._has_images = True

    async def _start(self, plan: ContainerPlan, number: int, observed: Observed) -> None:
        memory, sandbox = self._memory, observed.sandbox
        assert sandbox is not None
        if observed.latest(plan.name) is not None or plan.name in memory.failed_at:
            memory.starts(plan.name)
        try:
            await self._bring_images()
            whole = await self._as_made(sandbox.id)
            config = PodSandboxConfig()
            config.CopyFrom(whole.sandbox)
            config.metadata.attempt = sandbox.attempt
            (placed,) = (one for one in whole.every_container() if one.name == plan.name)
            container = await start_container(self._connection, Pod(sandbox.id, config), placed, number)
        except (ClientError, OSError) as error:
            self._has_images &= not isinstance(error, NotFound)  # it may have been removed
            self._failed(plan.name, error)
            return
        memory.succeeded(plan.name)
        if number:
            self._note(f"container {plan.name} was started again (restart {number})")
        if plan.behaviour.post_start is not None:
            await self._post_start(plan, container, sandbox.id)

    async def _post_start(self, plan: ContainerPlan, container: str, sandbox: str) -> None:
        assert plan.behaviour.post_start is not None
        self._address = self._address or await address_of(self._connection, sandbox)
        target = ProbeTarget(self._connection, container, self._address)
        if problem := await run_hook(target, plan.behaviour.post_start, POST_START_SECONDS):
            await self._kill(plan, container, f"postStart hook: {problem}", None)

    async def _kill(self, plan: ContainerPlan, container: str, reason: str, grace: int | None) -> None:
        self._note(f"container {plan.name} is stopped: {reason}")
        self._memory.ended_by_us[container] = reason
        seconds = self._plan.behaviour.grace if grace is None else grace
        target = ProbeTarget(self._connection, container, self._address)
        await self._end.end_container(target, plan, time.monotonic() + seconds, seconds)

    async def _remove(self, container: str, observed: Observed) -> None:
        """Remove a container and its log, which nobody reads any more."""
        await self._connection.call(
            self._connection.runtime.RemoveContainer, RemoveContainerRequest(container_id=container)
        )
        self._memory.ended_by_us.pop(container, None)
        self._memory.unhealthy.pop(container, None)
        for attempts in observed.attempts.values():
            for attempt in attempts:
                if attempt.id == container:
                    log = os.path.join(
                        self._plan.sandbox.log_directory, attempt.name, f"{attempt.number}.log"
                    )
                    await asyncio.to_thread(_remove_logs, log)

    async def _release(self, sandbox: str, observed: Observed) -> None:
        if observed.sandbox is not None and observed.sandbox.ready:
            await self._end.end(sandbox, self._plan.behaviour.grace)
        else:
            request = StopPodSandboxRequest(pod_sandbox_id=sandbox)
            await self._connection.call(self._connection.runtime.StopPodSandbox, request)
        self._memory.released.add(sandbox)

    def _failed(self, name: str, error: Exception) -> None:
        text = str(error)
        if self._memory.problems.get(name) != text:
            self._note(text)
        self._memory.failed(name, self._around.clock(), text)


def _pulling_what_is_missing(plan: PodPlan) -> PodPlan:
    """Who keeps a pod up pulls no newer image for it: that is for somebody who runs it again."""

    def frugal(container: ContainerPlan) -> ContainerPlan:
        return replace(container, pull="IfNotPresent") if container.pull == "Always" else container

    return replace(
        plan,
        init_containers=tuple(map(frugal, plan.init_containers)),
        containers=tuple(map(frugal, plan.containers)),
        volumes=tuple(
            replace(volume, pull="IfNotPresent") if volume.pull == "Always" else volume
            for volume in plan.volumes
        ),
    )


def _remove_logs(path: str) -> None:
    """A log and what was rotated from it."""
    for found in (path, *glob.glob(f"{glob.escape(path)}.*")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(found)
