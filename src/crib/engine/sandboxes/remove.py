"""RemovePodSandbox. It succeeds for what is not there, as the CRI says."""

from __future__ import annotations

from dataclasses import replace

from crib.engine.core import Core
from crib.engine.hooks import pod_view
from crib.engine.joins import Joins
from crib.engine.sandboxes.teardown import teardown_sandbox
from crib.model.errors import Broken
from crib.model.events import EventType
from crib.model.ids import SandboxId
from crib.model.lifecycle import SandboxVerb, is_listed, move_sandbox


class RemoveSandbox:
    """Removes the pod and whatever is left of its containers, by force where they still run."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._joins: Joins[None] = Joins(core.keeper, "remove sandbox")

    async def __call__(self, text: str) -> None:
        record = self._core.sandboxes.find(text)
        # One that is being removed is hidden, but not gone: who asks again waits with who asked first.
        if record is not None and (is_listed(record) or self._joins.running(record.id)):
            ending = self._core.admission.ending
            await self._joins.join(
                record.id, record, lambda: ending(lambda: self._remove(record.id)), record.id
            )

    async def _remove(self, sandbox: SandboxId) -> None:
        core = self._core
        async with core.locks.of(sandbox):
            record = core.sandboxes.get(sandbox)
            if record is None:
                return
            state = move_sandbox(record, SandboxVerb.REMOVE)
            record = core.sandboxes.put(replace(record, state=state))
            stage, removed = core.timeline.of(sandbox), record
            with stage("RemovePodSandbox", record.config.metadata.name):
                async with core.hooks.around("remove_pod", lambda: pod_view(removed), stage):
                    if failures := await teardown_sandbox(core, record, ""):
                        raise Broken(f"removing pod sandbox {sandbox}: {'; '.join(failures)}")
        # The kubelet drops events that carry no sandbox: this one would be lost on it.
        core.tell(EventType.DELETED, sandbox, sandbox, record)
