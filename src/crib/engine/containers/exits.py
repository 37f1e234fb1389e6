"""What happens, unasked, when a container's first process ends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from crib.engine.core import Core
from crib.model.container import ContainerRecord, ContainerState, Exit
from crib.model.errors import CribError
from crib.model.events import EventType
from crib.model.lifecycle import move_container
from crib.ports import Handler

log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds until exits are watched again after that failed; what happened meanwhile is on file then."""


async def watch_exits(core: Core, handler: Handler) -> None:
    """Record every exit that the handler tells of, for the daemon's life."""
    while True:
        try:
            async for exit_ in handler.exits():
                # Each on its own: a container whose start or removal hangs must not hold up the others.
                core.keeper.start(f"exit of {exit_.id}", _record_or_log(core, exit_))
        except CribError as error:
            log.error("watching for exits: %s; trying again in %.0f s", error, RETRY_AFTER)
            await asyncio.sleep(RETRY_AFTER)


async def _record_or_log(core: Core, exit_: Exit) -> None:
    try:
        await record_exit(core, exit_)
    except Exception:
        log.exception("could not record the exit of container %s", exit_.id)


async def record_exit(core: Core, exit_: Exit) -> None:
    """The container is EXITED, its waiters wake, subscribers are told. Known already: nothing happens."""
    # Behind the lock: a start under way first records RUNNING, then comes the exit.
    async with core.locks.of(exit_.id):
        record = core.containers.get(exit_.id)
        if record is None or record.state in (ContainerState.EXITED, ContainerState.REMOVING):
            core.tell_exited(exit_.id)
            return
        if record.state is ContainerState.CREATING:
            return  # its create fails by itself, with the runtime's own words
        core.containers.put(_exited(record, exit_))
        core.tell_exited(exit_.id)
    core.tell(EventType.STOPPED, exit_.id, record.sandbox_id)


def _exited(record: ContainerRecord, exit_: Exit) -> ContainerRecord:
    reason = "Completed" if exit_.code == 0 else "Error"
    message = record.message
    if exit_.oom_killed:
        reason = "OOMKilled"
    elif exit_.lost:
        reason, message = "Unknown", "the container's monitor died: its exit code is not known"
    return replace(
        record,
        state=move_container(record, "exit"),
        finished_at=exit_.at,
        exit_code=exit_.code,
        reason=reason,
        message=message,
    )
