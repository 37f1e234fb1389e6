"""Brings records and world together after a start; nothing that fails or hangs holds up the rest.

Assumes: no verb runs yet (the gate is closed), and every path, cgroup and mount of ours derives from an id.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from crib.engine.containers.exits import record_exit
from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.recovery.decide import Action, Decision, decide, decide_unseen
from crib.engine.sandboxes.teardown import release_sandbox, teardown_sandbox
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError
from crib.model.sandbox import SandboxRecord, SandboxState

log = logging.getLogger(__name__)

BOUND = 10.0
"""Seconds that one record may take."""
PARALLEL = 16


async def recover(core: Core) -> None:
    """Containers first, then sandboxes, then whatever belongs to no record."""
    limit = asyncio.Semaphore(PARALLEL)
    await asyncio.gather(
        *(_bounded(limit, f"container {row.id}", _container(core, row)) for row in core.containers)
    )
    await asyncio.gather(
        *(_bounded(limit, f"pod sandbox {row.id}", _sandbox(core, row)) for row in core.sandboxes)
    )
    await _bounded(limit, "what belongs to no record", _sweep(core), bound=6 * BOUND)


async def _bounded(
    limit: asyncio.Semaphore, what: str, work: Coroutine[Any, Any, None], bound: float = BOUND
) -> None:
    async with limit:
        try:
            async with asyncio.timeout(bound):
                await work
        except TimeoutError:
            log.error("recovering %s took more than %.0f s: it is left as it is", what, bound)
        except Exception as error:
            trace = None if isinstance(error, CribError) else error
            log.error("recovering %s: %s", what, error, exc_info=trace)


async def _container(core: Core, record: ContainerRecord) -> None:
    sandbox = core.sandboxes.get(record.sandbox_id)
    if sandbox is None:
        await teardown_container(core, record)
        return
    now = core.clock()
    decision = decide_unseen(record, same_boot=sandbox.boot_id == core.facts.boot_id, now=now)
    if decision is None:
        try:
            seen = await core.handler_of(sandbox).observe(record)
        except CribError as error:
            core.containers.put(replace(record, state=ContainerState.UNKNOWN, message=str(error)))
            raise
        decision = decide(record, seen, now)
    await _do(core, record, decision)


async def _do(core: Core, record: ContainerRecord, decision: Decision) -> None:
    match decision.action:
        case Action.TEARDOWN:
            await teardown_container(core, record)
        case Action.KEEP_RUNNING:
            core.containers.put(replace(record, state=ContainerState.RUNNING, started_at=core.clock()))
        case Action.KILL:
            assert decision.exit is not None
            handler = core.handler_of(core.sandbox(record.sandbox_id))
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
    alive = record.boot_id == core.facts.boot_id and await core.handler_of(record).pod_alive(record)
    if record.state is SandboxState.READY and alive:
        return
    reason = "" if record.state is SandboxState.NOT_READY else "its namespaces are gone"
    released = await release_sandbox(core, replace(record, state=SandboxState.NOT_READY))
    core.sandboxes.put(replace(released, reason=reason))


async def _sweep(core: Core) -> None:
    sandboxes = {row.id for row in core.sandboxes}
    containers = {row.id for row in core.containers}
    for handler in core.ports.handlers.values():
        for what in await handler.sweep(sandboxes, containers):
            log.warning("removed %s: it belonged to no record", what)
    attached = {row.id for row in core.sandboxes if not row.released}
    for what in await core.ports.networks.sweep(attached):
        log.warning("released %s: it belonged to no pod", what)
