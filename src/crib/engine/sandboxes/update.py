"""UpdatePodSandboxResources: other limits for a pod as a whole.

look up   the sandbox (READY)
act       node plugins are asked; the handler's pods.update, which limits the pod's cgroup if that is ours
report    the row's `overhead` and `resources`
✗         nothing is changed; see engine.containers.update for a daemon that dies in between
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from crib.engine.core import Core
from crib.engine.hooks import pod_view
from crib.model.ids import SandboxId
from crib.model.lifecycle import SandboxVerb, move_sandbox
from crib.model.sandbox import Resources, SandboxRecord


class UpdateSandbox:
    """The verb."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str, overhead: Resources | None, resources: Resources | None) -> None:
        """Replace the pod's overhead and resources; None leaves one as it is."""
        record = self._core.sandbox(text)
        work = self._update(record.id, overhead, resources)
        await self._core.keeper.begin("update sandbox", work, record.id).wait()

    async def _update(
        self, sandbox: SandboxId, overhead: Resources | None, resources: Resources | None
    ) -> None:
        core = self._core
        async with core.locks.of(sandbox):
            record = core.sandbox(sandbox)
            move_sandbox(record, SandboxVerb.UPDATE)
            core.refuse_if_faulty()
            view, stage = partial(pod_view, record), core.timeline.of(sandbox)
            async with core.hooks.around("update_pod", view, stage), core.plugins.gate.telling():
                wanted = _changed(record, overhead, resources)
                await core.plugins.updates_pod(record, wanted)
                await core.handler_of(record).pods.update(wanted)
                if (now := core.sandboxes.get(sandbox)) is not None:
                    now = core.sandboxes.put(_changed(now, overhead, resources))
                    await core.plugins.updated_pod(now)


def _changed(record: SandboxRecord, overhead: Resources | None, resources: Resources | None) -> SandboxRecord:
    return replace(record, overhead=overhead or record.overhead, resources=resources or record.resources)
