"""The one teardown of a sandbox: run by the failed verb, by stop, by remove and by recovery.

It goes by the record alone, and running it twice does no harm. If a step fails the rest is still tried;
the row then stays, NOT_READY with its reason, for the next try.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import replace

from crib.engine.containers.stop import kill_container
from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.retries import CLEAN_UP
from crib.model.container import ContainerState
from crib.model.errors import Broken, CribError
from crib.model.ids import SandboxId
from crib.model.lifecycle import SandboxVerb, move_sandbox
from crib.model.sandbox import SandboxRecord
from crib.tasks.groups import all_of

_log = logging.getLogger(__name__)


async def release_sandbox(core: Core, record: SandboxRecord) -> SandboxRecord:
    """End the containers, give back the network, unpin the namespaces; the record stays, NOT_READY.

    Raises Broken with what failed, after everything was tried; the record then holds the reason.
    """
    if record.released:
        return record
    failures: list[str] = []
    running = [
        row
        for row in core.containers_of(record.id)
        if row.state not in (ContainerState.EXITED, ContainerState.REMOVING)
    ]
    await all_of("end of a container", (_try(failures, kill_container(core, row.id)) for row in running))
    await core.plugins.pod_stops(record, core.containers_of(record.id))
    attached = len(failures)
    stage = core.timeline.of(record.id)
    if not record.config.host_network:
        with stage("network"):
            await _try(failures, _detach(core, record))
    if len(failures) == attached:
        # A plugin that failed may need the namespace at its next try (CNI specification, DEL): an interface
        # that was moved into it gets its own name back there only.
        with stage("namespaces"):
            await _try(failures, core.caretaker(record).pods.stop(record))
    if failures:
        core.figures.teardown_failures.add(("stop",))
        reason = "; ".join(failures)
        current = core.sandboxes.get(record.id) or record  # it may have been abandoned meanwhile
        state = move_sandbox(current, SandboxVerb.RELEASE)
        core.sandboxes.put(replace(current, state=state, reason=reason))
        raise Broken(f"stopping pod sandbox {record.id}: {reason}")
    return replace(record, state=move_sandbox(record, SandboxVerb.RELEASE), released=True, infra=None)


async def teardown_sandbox(core: Core, record: SandboxRecord, reason: str) -> list[str]:
    """Remove every trace of the sandbox; returns what failed.

    The row then stays, NOT_READY, and it is tried again later.
    """
    failures: list[str] = []
    try:
        record = await release_sandbox(core, record)
        for row in core.containers_of(record.id):
            await _try(failures, teardown_container(core, row))
        if not failures:
            with core.timeline.of(record.id)("files"):
                await _try(failures, core.caretaker(record).pods.remove(record))
    except CribError as error:
        failures.append(str(error))
    if failures:
        core.figures.teardown_failures.add(("pod",))
        kept = "; ".join(filter(None, (reason, *failures)))
        _log.warning("pod sandbox %s is kept, its teardown failed: %s", record.id, kept)
        if (current := core.sandboxes.get(record.id)) is not None:
            state = move_sandbox(current, SandboxVerb.RELEASE)
            core.sandboxes.put(replace(current, state=state, reason=kept))
            core.retries.later(record.id, CLEAN_UP, lambda: discard_sandbox(core, record.id))
    else:
        await core.plugins.pod_removed(record)
        core.sandboxes.remove(record)
    return failures


async def discard_sandbox(core: Core, sandbox: SandboxId) -> None:
    """Take away what nobody has a use for; Broken when something of it stays."""
    async with core.locks.of(sandbox):
        record = core.sandboxes.get(sandbox)
        if record is None:
            return
        kept = record.reason.partition("; ")[0] if record.abandoned else ""
        if failures := await teardown_sandbox(core, record, kept):
            raise Broken("; ".join(failures))


async def _detach(core: Core, record: SandboxRecord) -> None:
    with core.figures.network.timed("detach"):
        await core.ports.networks.detach(core.pod_network(record))


async def _try(failures: list[str], step: Awaitable[object]) -> None:
    """Note a failure and go on: one step must not keep the others from their work."""
    try:
        await step
    except CribError as error:
        failures.append(str(error))
    except Exception as error:
        _log.exception("teardown step failed unexpectedly")
        failures.append(f"{type(error).__name__}: {error}")
