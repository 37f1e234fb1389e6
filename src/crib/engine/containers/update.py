"""UpdateContainerResources: other limits for a container that is there.

look up   the container (CREATED or RUNNING)
act       the handler's containers.update, with what is asked for merged into what is in force
report    the row's `resources`, which ContainerStatus shows
✗         nothing is changed. If the daemon dies after the act, the row has the limits of before until the
          caller, who got no answer, asks again
"""

from __future__ import annotations

from dataclasses import replace

from crib.engine.core import Core
from crib.engine.hooks import container_view
from crib.model.ids import ContainerId
from crib.model.lifecycle import ContainerVerb, move_container
from crib.model.sandbox import Resources, merged


class UpdateContainer:
    """Changes the limits of one container at a time, never two at once of the same one."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str, change: Resources) -> None:
        """Merge `change` into the limits; 0 and "" leave a limit as it is."""
        record = self._core.container(text)
        work = self._core.keeper.begin("update container", self._update(record.id, change), record.id)
        await work.wait()

    async def _update(self, container: ContainerId, change: Resources) -> None:
        core = self._core
        async with core.locks.of(container):  # a start, stop or earlier update comes first
            record = core.container(container)
            move_container(record, ContainerVerb.UPDATE)
            core.refuse_if_faulty()
            wanted = merged(record.resources, change)
            sandbox = core.sandbox(record.sandbox_id)
            stage = core.timeline.of(sandbox.id)
            async with core.hooks.around("update_container", lambda: container_view(record, sandbox), stage):
                await core.handler_of(sandbox).containers.update(record, wanted)
            now = core.containers.get(container)
            if now is not None:
                core.containers.put(replace(now, resources=wanted))
