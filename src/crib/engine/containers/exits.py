"""What happens, unasked, when a container's first process ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import replace

from crib.engine.containers.start import START_FAILED
from crib.engine.core import Core
from crib.model.container import ContainerRecord, ContainerState, Exit
from crib.model.errors import CribError
from crib.model.events import EventType
from crib.model.lifecycle import ContainerVerb, move_container
from crib.model.sandbox import NamespaceMode
from crib.ports.containers import ContainerRuntime

_log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds until exits are watched again after that failed; what happened meanwhile is on file then."""


async def watch_exits(core: Core, containers: ContainerRuntime) -> None:
    """Record every exit that the handler reports, for the daemon's life."""
    while True:
        try:
            async for exit_ in containers.exits():
                # Each on its own: a container whose start or removal hangs must not hold up the others.
                core.keeper.start(f"exit of {exit_.id}", _record_or_log(core, exit_))
        except Exception as error:  # a bug too: nobody else reports exits
            is_bug = not isinstance(error, CribError)
            _log.error("watching for exits: %s; trying again in %.0f s", error, RETRY_AFTER, exc_info=is_bug)
            await asyncio.sleep(RETRY_AFTER)


async def _record_or_log(core: Core, exit_: Exit) -> None:
    try:
        await record_exit(core, exit_)
    except Exception:
        _log.exception("could not record the exit of container %s", exit_.id)


async def record_exit(core: Core, exit_: Exit) -> None:
    """The container is EXITED, its waiters wake, subscribers are told. Known already: nothing happens.

    While the host shuts down, only its waiters wake (`engine.host_end`).
    """
    if core.host_ends:
        core.tell_exited(exit_.id)
        return
    # Behind the lock: a start under way first records RUNNING, then comes the exit.
    async with core.locks.of(exit_.id):
        record = core.containers.get(exit_.id)
        if record is None or record.state in (ContainerState.EXITED, ContainerState.REMOVING):
            core.tell_exited(exit_.id)
            return
        if record.state is ContainerState.CREATING:
            return  # its create fails by itself, with the runtime's own words
        if not exit_.lost:
            await _end_the_rest(core, record)
        ended = _exited(record, exit_)
        # Before the row, with which it is written in one go.
        core.ends.ended(ended, core.sandboxes.get(record.sandbox_id), exit_)
        core.containers.put(ended)
        core.plugins.ended(ended)
        core.figures.exits.add((ended.reason,))
        outcome = "ok" if ended.reason == "Completed" else f"{ended.reason}, exit code {ended.exit_code}"
        core.timeline.of(record.sandbox_id).mark("ended", record.config.name, outcome)
        core.tell_exited(exit_.id)
    core.tell(EventType.STOPPED, exit_.id, record.sandbox_id)


async def _end_the_rest(core: Core, record: ContainerRecord) -> None:
    """Nothing runs in a container that is shown as EXITED. Only its own pid namespace would ensure that."""
    if record.config.security.namespaces.pid == NamespaceMode.CONTAINER:
        return
    try:
        containers = core.caretaker(core.sandboxes.get(record.sandbox_id)).containers
        await containers.signal(record, signal.SIGKILL, everyone=True)
    except CribError as error:
        _log.warning("ending what container %s left behind: %s", record.id, error)


def _exited(record: ContainerRecord, exit_: Exit) -> ContainerRecord:
    reason = "Completed" if exit_.code == 0 else "Error"
    message, code = record.message, exit_.code
    if exit_.never_ran:
        reason, message, code = "StartError", exit_.never_ran, START_FAILED
    elif exit_.oom_killed:
        # Whichever process it was, and whatever the first one made of it: as the peers report it.
        reason = "OOMKilled"
    elif exit_.lost:
        reason = "Unknown"
        message = exit_.why or "the container's monitor died: its exit code is not known"
    if record.abandoned:
        reason, message = record.reason, record.message
    return replace(
        record,
        state=move_container(record, ContainerVerb.EXIT),
        # A program may have ended before its start was recorded, and the clock may have been set back.
        finished_at=max(exit_.at, record.started_at),
        exit_code=code,
        reason=reason,
        message=message,
    )
