"""The one teardown of a container: run by the failed create, by remove, by its sandbox and by recovery."""

from __future__ import annotations

from dataclasses import replace

from crib.engine.core import Core
from crib.engine.retries import CLEAN_UP
from crib.model.container import ContainerRecord
from crib.model.events import EventType
from crib.model.lifecycle import ContainerVerb, is_listed, move_container


async def teardown_container(core: Core, record: ContainerRecord) -> None:
    """Kill what is left and remove every trace; running it twice does no harm.

    If that fails the row stays, UNKNOWN with the reason, the error goes on, and it is tried again later.
    """
    async with core.locks.of(record.id):
        current = core.containers.get(record.id)
        if current is None:
            return
        was_listed = is_listed(current)
        if not current.abandoned:  # which stays in the lists until nothing of it is left
            state = move_container(current, ContainerVerb.REMOVE)
            current = core.containers.put(replace(current, state=state))
        sandbox = core.sandboxes.get(current.sandbox_id)
        containers = core.caretaker(sandbox).containers
        try:
            with core.timeline.of(current.sandbox_id)("delete", current.config.name):
                await containers.delete(current)
        except Exception as error:  # a bug too: what stays in REMOVING is hidden, and nobody would try again
            core.figures.teardown_failures.add(("container",))
            reason = current.reason if current.abandoned else "RemoveError"
            state = move_container(current, ContainerVerb.FAIL_REMOVE)
            core.containers.put(replace(current, state=state, reason=reason, message=str(error)))
            core.retries.later(record.id, CLEAN_UP, lambda: teardown_container(core, record))
            raise
        await core.plugins.removed(current)
        core.ends.removed(current)
        core.containers.remove(current)
        core.tell_exited(current.id)
        core.container_gone(current)
    if was_listed:
        core.tell(EventType.DELETED, current.id, current.sandbox_id)
