"""StopContainer: the stop signal, a grace, then SIGKILL to everything in the container."""

from __future__ import annotations

import asyncio
import signal
from functools import partial

from crib.engine.containers.exits import record_exit
from crib.engine.core import Core
from crib.engine.hooks import container_view
from crib.engine.timeline import SandboxTimeline
from crib.model.container import ContainerRecord, ContainerState, Exit
from crib.model.errors import Broken
from crib.model.ids import ContainerId
from crib.model.lifecycle import ContainerVerb, is_listed, move_container
from crib.ports.containers import ContainerRuntime

KILL_BOUND = 30.0
"""Seconds that a killed container may take to be gone (a process in uninterruptible sleep takes longer)."""
MAX_GRACE = 365 * 24 * 3600


class StopContainer:
    """Succeeds for what is not there or has exited, as the CRI says."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._signalled: set[ContainerId] = set()
        """Had their stop signal: many programs drop everything at a second one."""

    async def __call__(self, text: str, grace: float) -> None:
        """`grace`: seconds between the stop signal and SIGKILL; 0 kills at once."""
        record = self._core.containers.find(text)
        if record is None or not is_listed(record):
            return
        work = self._stop(record.id, min(grace, MAX_GRACE))
        # Not joined: a second call may come with a shorter grace, and then that is the one that counts.
        await self._core.keeper.begin("stop container", work, record.id).wait()

    async def evict(self, container: ContainerId, grace: float, reason: str) -> None:
        """The same for a node plugin; `reason` names it. One that has ended stays as it is."""
        await self._stop(container, min(grace, MAX_GRACE), reason)

    async def _stop(self, container: ContainerId, grace: float, reason: str = "") -> None:
        core = self._core
        async with core.locks.of(container):  # a create or start under way comes first
            record = core.containers.get(container)
            if record is None or record.state is ContainerState.EXITED:
                return
            move_container(record, ContainerVerb.STOP)
            allowed = grace if record.state is ContainerState.RUNNING else 0.0
            if reason:
                core.ends.evicted(record, allowed, reason)
            else:
                core.ends.ordered(record, allowed)
        stage, sandbox = core.timeline.of(record.sandbox_id), core.sandboxes.get(record.sandbox_id)
        with stage("StopContainer", record.config.name):
            async with core.hooks.around("stop_container", partial(container_view, record, sandbox), stage):
                await self._end(record, grace, stage)

    async def _end(self, record: ContainerRecord, grace: float, stage: SandboxTimeline) -> None:
        core = self._core
        if grace > 0 and record.state is ContainerState.RUNNING:
            exited = core.exited(record.id)
            await self._signal_once(record)
            with stage("grace", record.config.name):
                ended = await happens(exited, grace)
            if ended:
                self._signalled.discard(record.id)
                return
        await core.admission.ending(lambda: kill_container(core, record.id))
        self._signalled.discard(record.id)

    async def _signal_once(self, record: ContainerRecord) -> None:
        if record.id in self._signalled:
            return
        self._signalled.add(record.id)
        try:
            await _containers(self._core, record).signal(record, record.stop_signal)
        except BaseException:
            self._signalled.discard(record.id)
            raise


async def kill_container(core: Core, container: ContainerId) -> None:
    """SIGKILL everything in the container and wait until its exit is recorded."""
    async with core.locks.of(container):
        record = core.containers.get(container)
        if record is None or not record.is_made or record.finished_at:
            return  # an exit is reported once: after a failed removal the state is UNKNOWN, but it has ended
        core.ends.killed(record)
        waits = record.awaits_restore
        exited = core.exited(container)
    containers = _containers(core, record)
    if waits:  # there is no process yet, whose end somebody would report
        await record_exit(core, Exit(container, 128 + signal.SIGKILL, core.clock()))
        await containers.signal(record, signal.SIGKILL, everyone=True)  # of a start that came in between
        return
    with core.timeline.of(record.sandbox_id)("SIGKILL", record.config.name):
        await containers.signal(record, signal.SIGKILL, everyone=True)
        if await happens(exited, KILL_BOUND):
            return
    seen = await containers.observe(record)
    if seen.status not in ("stopped", "gone"):
        raise Broken(f"container {container} is still {seen.status} {KILL_BOUND:.0f} s after SIGKILL")
    lost = Exit(container, 255, core.clock(), lost=True)
    await record_exit(core, seen.exit or lost)


def _containers(core: Core, record: ContainerRecord) -> ContainerRuntime:
    sandbox = core.sandboxes.get(record.sandbox_id)
    return core.caretaker(sandbox).containers


async def happens(event: asyncio.Event, within: float) -> bool:
    """Whether it is set in so many seconds."""
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True
