"""Verbs under way, and giving up on those of one object.

look up   the pod sandbox or container, one that is half-made or half-gone too
intend    its row is marked: NOT_READY or UNKNOWN with the reason, its name is free from now on
act       callers that wait for its verbs get ABORTED at once, and the verbs end as soon as they can
report    event STOPPED
later     the same teardown as ever, in the background until it succeeds (`engine.retries`)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.retries import CLEAN_UP
from crib.engine.sandboxes.teardown import discard_sandbox
from crib.model.container import ContainerRecord
from crib.model.errors import NotFound
from crib.model.events import EventType
from crib.model.facts import KILLED
from crib.model.lifecycle import ContainerVerb, SandboxVerb, move_container, move_sandbox
from crib.model.sandbox import SandboxRecord

ABANDONED = "Abandoned"
"""The reason that a row has from then on."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A verb that has not ended, a thread that has not come back, or a program that SIGKILL did not end."""

    name: str
    object: str
    """Id of the pod sandbox or container; empty for other work."""
    title: str
    """NAMESPACE/NAME of the pod, and /CONTAINER; empty where that is not known (any more)."""
    stage: str
    request: str
    seconds: float
    callers: int


class Abandon:
    """The verb, and the list to choose from."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def under_way(self) -> list[UnderWay]:
        """Everything, the oldest first; what threads wait for comes last."""
        core, now = self._core, time.monotonic()
        works = [
            UnderWay(
                name=work.name,
                object=work.of,
                title=core.describe(work.of).title,
                stage=work.where,
                request=work.request,
                seconds=now - work.began,
                callers=work.callers,
            )
            for work in core.keeper.works()
        ]
        threads = [
            UnderWay(
                name="killed program" if wait.kind == KILLED else f"thread ({wait.kind})",
                object=wait.owner,
                title=core.describe(wait.owner).title,
                stage=wait.what,
                request="",
                seconds=wait.seconds,
                callers=0,
            )
            for wait in core.ports.vitals().waiting
        ]
        return [*works, *threads]

    def __call__(self, text: str, why: str) -> Sequence[str]:
        """Give up on an object, a pod sandbox with its containers; says which verbs were abandoned.

        `text`: its id or a beginning of it; NotFound when no sandbox or container has it.
        """
        core = self._core
        sandbox = core.sandboxes.find(text)
        container = core.containers.find(text) if sandbox is None else None
        if sandbox is None and container is None:
            raise NotFound(f"there is no pod sandbox and no container {text!r}")
        reason = f"{ABANDONED}: {why}" if why else ABANDONED
        if sandbox is not None:
            containers = core.containers_of(sandbox.id)
        else:
            assert container is not None
            containers = (container,)
        objects = {row.id for row in (sandbox, *containers) if row is not None}
        works = [work for work in core.keeper.works() if work.of in objects and work.name != CLEAN_UP]
        # First the rows: a caller that learns that a verb was abandoned finds the name free.
        for row in containers:
            self._mark_container(row, reason)
        if sandbox is not None:
            self._mark_sandbox(sandbox, reason)
        told = [f"{work.name} {work.of}, {work.where or 'between stages'}" for work in works]
        for work in works:
            work.abandon(reason)
        clean_later(core, sandbox or containers[0])
        return told

    def _mark_container(self, row: ContainerRecord, reason: str) -> None:
        state = move_container(row, ContainerVerb.ABANDON)
        marked = replace(row, state=state, reason=ABANDONED, message=reason, abandoned=True)
        self._core.containers.put(marked)
        self._core.tell(EventType.STOPPED, row.id, row.sandbox_id)

    def _mark_sandbox(self, row: SandboxRecord, reason: str) -> None:
        state = move_sandbox(row, SandboxVerb.ABANDON)
        self._core.sandboxes.put(replace(row, state=state, reason=reason, abandoned=True))
        self._core.tell(EventType.STOPPED, row.id, row.id)


def clean_later(core: Core, row: SandboxRecord | ContainerRecord) -> None:
    """Take it away in the background, beginning now."""
    if isinstance(row, SandboxRecord):
        core.retries.later(row.id, CLEAN_UP, lambda: discard_sandbox(core, row.id), pause=0.0)
    else:
        core.retries.later(row.id, CLEAN_UP, lambda: teardown_container(core, row), pause=0.0)
