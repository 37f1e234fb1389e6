"""RemoveContainer: by force where it still runs. Succeeds for what is not there, as the CRI says."""

from __future__ import annotations

from functools import partial

from crib.engine.containers.stop import kill_container
from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.hooks import container_view
from crib.engine.joins import Joins
from crib.engine.retries import CLEAN_UP
from crib.model.container import ContainerRecord
from crib.model.errors import CribError
from crib.model.lifecycle import is_listed


class RemoveContainer:
    """Kills, then removes every trace but the log."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._joins: Joins[None] = Joins(core.keeper, "remove container")

    async def __call__(self, text: str) -> None:
        record = self._core.containers.find(text)
        # One that is being removed is hidden, but not gone: who asks again waits with who asked first.
        if record is not None and (is_listed(record) or self._joins.running(record.id)):
            ending = self._core.admission.ending
            await self._joins.join(record.id, record, lambda: ending(lambda: self._remove(record)), record.id)

    async def _remove(self, record: ContainerRecord) -> None:
        core = self._core
        stage, sandbox = core.timeline.of(record.sandbox_id), core.sandboxes.get(record.sandbox_id)
        with stage("RemoveContainer", record.config.name):
            async with core.hooks.around("remove_container", partial(container_view, record, sandbox), stage):
                try:
                    await kill_container(core, record.id)
                except CribError:
                    core.retries.later(record.id, CLEAN_UP, lambda: self._remove(record))
                    raise
                await teardown_container(core, record)
