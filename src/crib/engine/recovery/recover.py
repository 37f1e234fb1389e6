"""Brings records and world together after a start; nothing that fails or hangs holds up the rest.

Assumes: no verb runs yet (the gate is closed), and every path, cgroup and mount of ours derives from an id.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace

from crib.engine.containers.exits import record_exit, watch_exits
from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.recovery.decide import Action, Decision, decide, decide_unseen
from crib.engine.sandboxes.losses import LOST, notice_loss, watch_pods
from crib.engine.sandboxes.teardown import release_sandbox, teardown_sandbox
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError
from crib.model.sandbox import SandboxRecord, SandboxState

log = logging.getLogger(__name__)

BOUND = 10.0
"""Seconds that one record may take."""
PARALLEL = 16


async def recover(core: Core) -> None:
    """Containers first, then sandboxes, then whatever belongs to no record. Exits are watched afterwards."""
    limit = asyncio.Semaphore(PARALLEL)

    async def container(row: ContainerRecord) -> None:
        problem = await _bounded(limit, f"container {row.id}", lambda: _container(core, row))
        if problem:
            _doubt_container(core, row, problem)

    async def sandbox(row: SandboxRecord) -> None:
        problem = await _bounded(limit, f"pod sandbox {row.id}", lambda: _sandbox(core, row))
        if problem:
            _doubt_sandbox(core, row, problem)

    await asyncio.gather(*(container(row) for row in core.containers))
    # From here on containers are killed and their exits awaited.
    for name, handler in core.ports.handlers.items():
        core.keeper.serve(f"exits of {name}", watch_exits(core, handler))
    await asyncio.gather(*(sandbox(row) for row in core.sandboxes))
    for name, handler in core.ports.handlers.items():
        core.keeper.serve(f"pods of {name}", watch_pods(core, handler))
    await _bounded(limit, "what belongs to no record", lambda: sweep(core), times=6)
    # A plugin that hangs in GC holds up the pods of its networks, but not the daemon.
    await asyncio.wait([core.keeper.start("network garbage", _sweep_networks(core))], timeout=BOUND)


async def _bounded(
    limit: asyncio.Semaphore, what: str, work: Callable[[], Awaitable[None]], times: int = 1
) -> str:
    """Do the work within `times` the bound of one record; returns what went wrong, or nothing."""
    bound = times * BOUND
    async with limit:
        try:
            async with asyncio.timeout(bound):
                await work()
        except TimeoutError:
            problem = f"recovery took more than {bound:.0f} s"
            log.error("recovering %s: %s", what, problem)
        except Exception as error:
            problem = str(error) or type(error).__name__
            log.error("recovering %s: %s", what, error, exc_info=not isinstance(error, CribError))
        else:
            return ""
    return problem


def _doubt_container(core: Core, row: ContainerRecord, problem: str) -> None:
    """Nobody knows how it is: shown as UNKNOWN, so that the kubelet removes it."""
    now = core.containers.get(row.id)
    if now is not None and now.state not in (ContainerState.EXITED, ContainerState.UNKNOWN):
        core.containers.put(
            replace(now, state=ContainerState.UNKNOWN, reason="RecoveryError", message=problem)
        )


def _doubt_sandbox(core: Core, row: SandboxRecord, problem: str) -> None:
    """Half-made or half-removed is shown as NOT_READY, so that the kubelet removes it; a READY one stays."""
    now = core.sandboxes.get(row.id)
    if now is not None and now.state in (SandboxState.CREATING, SandboxState.REMOVING):
        core.sandboxes.put(replace(now, state=SandboxState.NOT_READY, reason=problem))


async def _container(core: Core, record: ContainerRecord) -> None:
    sandbox = core.sandboxes.get(record.sandbox_id)
    if sandbox is None:
        await teardown_container(core, record)
        return
    now = core.clock()
    decision = decide_unseen(record, same_boot=sandbox.boot_id == core.facts.boot_id, now=now)
    if decision is None:
        decision = decide(record, await core.caretaker(sandbox).observe(record), now)
    await carry_out(core, record, decision)


async def carry_out(core: Core, record: ContainerRecord, decision: Decision) -> None:
    """Make record and world agree as the table says."""
    match decision.action:
        case Action.TEARDOWN:
            await teardown_container(core, record)
        case Action.KEEP_RUNNING:
            began = record.started_at or core.clock()
            found = replace(record, state=ContainerState.RUNNING, started_at=began, reason="", message="")
            core.containers.put(found)
        case Action.KILL:
            assert decision.exit is not None
            handler = core.caretaker(core.sandboxes.get(record.sandbox_id))
            await handler.signal(record, signal.SIGKILL, everyone=True)
            await record_exit(core, decision.exit)
        case Action.MARK_EXITED:
            assert decision.exit is not None
            await record_exit(core, decision.exit)
        case Action.KEEP:
            pass


async def _sandbox(core: Core, record: SandboxRecord) -> None:
    if record.state in (SandboxState.CREATING, SandboxState.REMOVING):
        await teardown_sandbox(core, record, "interrupted")
        return
    if record.released:
        return
    if record.boot_id == core.facts.boot_id:
        await notice_loss(core, record.id)
        record = core.sandboxes.get(record.id) or record
        if record.reason == LOST:
            return  # what runs in it still is the client's to stop
        if record.state is SandboxState.READY:
            await _resume_network(core, record)
            return
    # The reason of a run that failed lets the next try of that run clear it away.
    reason = record.reason if record.state is SandboxState.NOT_READY else LOST
    record = core.sandboxes.put(replace(record, state=SandboxState.NOT_READY, reason=reason))
    released = await release_sandbox(core, record)
    core.sandboxes.put(replace(released, reason=reason))


async def _resume_network(core: Core, record: SandboxRecord) -> None:
    if record.config.host_network:
        return
    attachment = await core.ports.networks.resume(core.pod_network(record))
    if attachment is not None:
        log.warning("pod %s: its network was made anew: it has %s", record.id, attachment.addresses)
        core.sandboxes.put(replace(record, network=attachment))


async def sweep(core: Core) -> None:
    """Remove whatever of ours belongs to no record."""
    for handler in core.ports.handlers.values():
        for what in await handler.sweep(core.sandboxes.ids, core.containers.ids):
            log.warning("removed %s: it belonged to no record", what)


async def _sweep_networks(core: Core) -> None:
    attached = {row.id for row in core.sandboxes if not row.released}
    try:
        for what in await core.ports.networks.sweep(attached):
            log.warning("released %s: it belonged to no pod", what)
    except Exception as error:
        is_bug = not isinstance(error, CribError)
        log.error("what networks hold for no pod stays: %s", error, exc_info=is_bug)
