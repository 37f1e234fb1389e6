"""StopPodSandbox. It succeeds for what is not there, as the CRI says."""

from __future__ import annotations

from dataclasses import replace

from crib.engine.core import Core
from crib.engine.hooks import pod_view
from crib.engine.joins import Joins
from crib.engine.sandboxes.teardown import release_sandbox
from crib.model.errors import CribError
from crib.model.events import EventType
from crib.model.ids import SandboxId
from crib.model.lifecycle import SandboxVerb, is_listed, move_sandbox


class StopSandbox:
    """Ends the pod's containers by force, gives back its network; the record stays until it is removed."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._joins: Joins[None] = Joins(core.keeper, "stop sandbox")

    async def __call__(self, text: str) -> None:
        record = self._core.sandboxes.find(text)
        if record is not None and is_listed(record):
            ending = self._core.admission.ending
            await self._joins.join(
                record.id, record, lambda: ending(lambda: stop_sandbox(self._core, record.id)), record.id
            )


async def stop_sandbox(core: Core, sandbox: SandboxId) -> None:
    """End all of it and give back what it holds; Broken says what failed. One that is gone is stopped."""
    async with core.locks.of(sandbox):
        record = core.sandboxes.get(sandbox)
        if record is None or record.released:
            return
        state = move_sandbox(record, SandboxVerb.STOP)
        # Recorded first: from here on no container is created in it, also after a crash.
        record = core.sandboxes.put(replace(record, state=state, reason=""))
        try:
            stage, stopped = core.timeline.of(sandbox), record
            with stage("StopPodSandbox", record.config.metadata.name):
                async with core.hooks.around("stop_pod", lambda: pod_view(stopped), stage):
                    released = await release_sandbox(core, record)
        except CribError:
            core.retries.later(sandbox, "stop sandbox", lambda: stop_sandbox(core, sandbox))
            raise
        core.sandboxes.put(replace(released, reason=""))
    core.tell(EventType.STOPPED, sandbox, sandbox)
