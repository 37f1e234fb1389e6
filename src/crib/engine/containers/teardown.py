"""The one teardown of a container: run by the failed create, by remove, by its sandbox and by recovery."""

from __future__ import annotations

from dataclasses import replace

from crib.engine.core import Core
from crib.model.container import ContainerRecord, ContainerState
from crib.model.events import EventType
from crib.model.lifecycle import is_listed, move_container


async def teardown_container(core: Core, record: ContainerRecord) -> None:
    """Kill what is left and remove every trace; running it twice does no harm.

    If that fails the row stays, UNKNOWN with the reason, for the next try, and the error goes on.
    """
    async with core.locks.of(record.id):
        current = core.containers.get(record.id)
        if current is None:
            return
        was_listed = is_listed(current)
        current = core.containers.put(replace(current, state=move_container(current, "remove")))
        sandbox = core.sandboxes.get(current.sandbox_id)
        handler = core.caretaker(sandbox)
        try:
            await handler.delete(current)
        except Exception as error:  # a bug too: what stays in REMOVING is hidden, and nobody would try again
            core.containers.put(
                replace(current, state=ContainerState.UNKNOWN, reason="RemoveError", message=str(error))
            )
            raise
        core.containers.remove(current)
        core.tell_exited(current.id)
        core.container_gone(current)
    if was_listed:
        core.tell(EventType.DELETED, current.id, current.sandbox_id)
