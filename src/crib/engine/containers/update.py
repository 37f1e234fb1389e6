"""UpdateContainerResources: other limits for a container that is there.

look up   the container (CREATED or RUNNING)
act       node plugins are asked, without a lock: they may want other containers changed first. Then the
          handler's containers.update, with what is asked for merged into what is in force
report    the row's `resources`, which ContainerStatus shows
✗         nothing is changed. If the daemon dies after the act, the row has the limits of before until the
          caller, who got no answer, asks again
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from crib.engine.core import Core
from crib.engine.hooks import container_view
from crib.model.container import ContainerRecord
from crib.model.errors import InvalidRequest
from crib.model.ids import ContainerId
from crib.model.lifecycle import ContainerVerb, move_container
from crib.model.plugin_limits import change_of, changed
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources, merged


class UpdateContainer:
    """Changes the limits of one container at a time, never two at once of the same one."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str, change: Resources) -> None:
        """Merge `change` into the limits; 0 and "" leave a limit as it is."""
        record = self._core.container(text)
        work = self._core.keeper.begin("update container", self._asked(record.id, change), record.id)
        await work.wait()

    async def by_plugin(self, container: ContainerId, change: ResourceChange) -> None:
        """The same for a node plugin: neither hooks nor plugins are asked about it."""
        if change.blockio_class is not None or change.rdt_class is not None:
            raise InvalidRequest(f"the class of container {container} cannot be changed after its creation")
        await self._put_in_force(container, lambda row: changed(row.resources, change))

    async def _asked(self, container: ContainerId, change: Resources) -> None:
        core = self._core
        record = core.container(container)
        move_container(record, ContainerVerb.UPDATE)
        core.refuse_if_faulty()
        sandbox = core.sandbox(record.sandbox_id)
        view, stage = partial(container_view, record, sandbox), core.timeline.of(sandbox.id)
        async with core.hooks.around("update_container", view, stage), core.plugins.gate.telling():
            wanted = await core.plugins.updates(record, sandbox, change_of(change))

            def limits(row: ContainerRecord) -> Resources:
                score = merged(row.resources, change).oom_score_adj  # which plugins are not asked about
                return replace(changed(row.resources, wanted), oom_score_adj=score)

            await core.plugins.updated(await self._put_in_force(container, limits), sandbox)

    async def _put_in_force(
        self, container: ContainerId, limits: Callable[[ContainerRecord], Resources]
    ) -> ContainerRecord:
        core = self._core
        async with core.locks.of(container):  # a start, stop or earlier update comes first
            record = core.container(container)
            move_container(record, ContainerVerb.UPDATE)
            core.refuse_if_faulty()
            wanted = limits(record)
            await core.handler_of(core.sandbox(record.sandbox_id)).containers.update(record, wanted)
            now = core.containers.get(container)
            return record if now is None else core.containers.put(replace(now, resources=wanted))
