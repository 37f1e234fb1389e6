"""What happens, unasked, when a pod loses what holds it together: it is NOT_READY from then on.

Only for a sandbox that is NOT_READY does the kubelet make a new one. Its containers are left alone: the
kernel ends those whose pid namespace is gone, and the others go on until somebody stops the pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from crib.engine.core import Core
from crib.model.errors import CribError
from crib.model.events import EventType
from crib.model.ids import SandboxId
from crib.model.lifecycle import SandboxVerb, move_sandbox
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.ports.handler import Handler

_log = logging.getLogger(__name__)

LOST = "its namespaces, its /dev/shm or its infra process are gone"
"""The record's reason."""
RETRY_AFTER = 1.0
"""Seconds until pods are watched again after that failed."""


async def watch_pods(core: Core, handler: Handler) -> None:
    """Record the losses that the handler reports, for the daemon's life."""

    def ready() -> Iterable[SandboxRecord]:
        return (
            row
            for row in core.sandboxes
            if row.state is SandboxState.READY and core.caretaker(row) is handler
        )

    while True:
        try:
            async for sandbox in handler.pods.losses(ready):
                await notice_loss(core, sandbox)
        except Exception as error:  # a bug too: nobody else reports losses
            is_bug = not isinstance(error, CribError)
            _log.error("watching pods: %s; trying again in %.0f s", error, RETRY_AFTER, exc_info=is_bug)
        await asyncio.sleep(RETRY_AFTER)


async def notice_loss(core: Core, sandbox: SandboxId) -> None:
    """If it is true, the sandbox becomes NOT_READY and subscribers hear of it."""
    record = _ready(core, sandbox)
    if record is None or await core.caretaker(record).pods.alive(record):
        return
    record = _ready(core, sandbox)  # a stop may have come between
    if record is None:
        return
    _log.warning("pod sandbox %s is no longer ready: %s", sandbox, LOST)
    core.sandboxes.put(replace(record, state=move_sandbox(record, SandboxVerb.LOSE), reason=LOST))
    core.tell(EventType.STOPPED, sandbox, sandbox)


def _ready(core: Core, sandbox: SandboxId) -> SandboxRecord | None:
    record = core.sandboxes.get(sandbox)
    return record if record is not None and record.state is SandboxState.READY else None
