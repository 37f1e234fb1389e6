"""CheckpointContainer: a running container is written down, and goes on.

look up   the container (RUNNING), and whether its handler can
intend    the row names the archive from now on
act       pause, capture, resume; then the archive is written
report    the row names none any more
✗         the container goes on, and neither an archive nor a part of one is there. If the daemon dies, the
          next one sees to that (`undo_checkpoint`)

The container's lock is held: a stop or removal that comes meanwhile waits. A capture is never ended halfway,
because CRIU works within the container's processes: the caller's time counts from step to step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from crib.engine.core import Core
from crib.engine.timeline import SandboxTimeline
from crib.model.container import ContainerRecord
from crib.model.errors import CribError, NotBuilt, TimedOut, WrongState
from crib.model.ids import ContainerId
from crib.model.lifecycle import ContainerVerb, move_container
from crib.model.sandbox import NamespaceMode, SandboxRecord
from crib.ports.checkpoints import Checkpoints, Packing

_log = logging.getLogger(__name__)

UNDO = "end of a checkpoint"
"""Name of the retries that end with nothing left of it."""
UNAVAILABLE = "checkpoint/restore support not available"
"""What a kubelet's own tests look for where it is not."""


@dataclass(frozen=True, slots=True)
class Saving:
    """A container, and the archive that it is to be in."""

    container: ContainerId
    location: str


class CheckpointContainer:
    """The verb; of one container one at a time."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str, location: str, timeout: float) -> None:
        """`timeout`: seconds for all of it; 0: `verb_timeout`."""
        core = self._core
        record = core.container(text)
        move_container(record, ContainerVerb.CHECKPOINT)
        until = time.monotonic() + (timeout or core.settings.verb_timeout)
        saving = Saving(record.id, location)
        saved = save(core, core.sandbox(record.sandbox_id), [saving], until)
        await core.keeper.begin("checkpoint container", saved, record.id).wait()


async def save(core: Core, sandbox: SandboxRecord, savings: Sequence[Saving], until: float) -> None:
    """Write down containers of one pod as they are at the same moment; `until` is on the monotonic clock.

    No archive is there before all of them are whole.
    """
    checkpoints = able(core, sandbox.handler)
    async with AsyncExitStack() as held:
        for one in sorted(savings, key=lambda one: one.container):
            await held.enter_async_context(core.locks.of(one.container))
        core.refuse_if_faulty()
        rows = [_suitable(core.container(one.container), sandbox) for one in savings]
        stage = core.timeline.of(sandbox.id)
        with stage("CheckpointContainer", " ".join(row.config.name for row in rows)):
            for position, one in enumerate(savings):
                rows[position] = core.containers.put(replace(rows[position], checkpointing=one.location))
            try:
                at = await _capture(core, checkpoints, rows, stage)
                with stage("archive", ""):
                    for row in rows:
                        await checkpoints.pack(Packing(row, row.checkpointing, at, _left(row, until)))
                    await _publish(checkpoints, rows)
            finally:
                for row in rows:
                    await _end(core, checkpoints, row)


async def _capture(
    core: Core, checkpoints: Checkpoints, rows: Sequence[ContainerRecord], stage: SandboxTimeline
) -> int:
    """All of them between a common pause and resume; the moment, in nanoseconds since the epoch."""
    paused: list[ContainerRecord] = []
    try:
        for row in rows:
            paused.append(row)
            with stage("pause", row.config.name):
                await checkpoints.pause(row)
        at = core.clock()
        for row in rows:
            with stage("capture", row.config.name):
                await checkpoints.capture(row)
    finally:
        for row in paused:
            with stage("resume", row.config.name):
                await checkpoints.resume(row)
    return at


async def _publish(checkpoints: Checkpoints, rows: Sequence[ContainerRecord]) -> None:
    """All or none."""
    named: list[str] = []
    try:
        for row in rows:
            await checkpoints.publish(row, row.checkpointing)
            named.append(row.checkpointing)
    except BaseException:
        for location in named:
            await checkpoints.withdraw(location)
        raise


def _left(row: ContainerRecord, until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimedOut(f"checkpoint of container {row.id}: it was captured, but the time is over")
    return left


async def _end(core: Core, checkpoints: Checkpoints, row: ContainerRecord) -> None:
    """What fails is tried again later: the caller's answer does not depend on it."""
    try:
        await checkpoints.discard(row, row.checkpointing)
    except CribError as error:
        _log.warning("checkpoint of container %s: %s; trying again", row.id, error)
        core.retries.later(row.id, UNDO, lambda: undo_checkpoint(core, row.id))
    else:
        _forget(core, row.id)


async def undo_checkpoint(core: Core, container: ContainerId) -> None:
    """What an earlier daemon, or an earlier try, has left of one."""
    async with core.locks.of(container):
        row = core.containers.get(container)
        if row is None or not row.checkpointing:
            return
        checkpoints = core.caretaker(core.sandboxes.get(row.sandbox_id)).checkpoints
        if checkpoints is not None:
            await checkpoints.discard(row, row.checkpointing)
        _forget(core, container)


def begin_undoing(core: Core) -> None:
    """For each container that an earlier daemon was at work on when it ended."""
    for row in core.containers:
        if row.checkpointing:
            core.retries.later(row.id, UNDO, partial(undo_checkpoint, core, row.id), 0)


def _forget(core: Core, container: ContainerId) -> None:
    now = core.containers.get(container)
    if now is not None:
        core.containers.put(replace(now, checkpointing=""))


def able(core: Core, name: str) -> Checkpoints:
    """Who makes a handler's checkpoints; NotBuilt for a kind that makes none, WrongState with the reason."""
    _, handler = core.handler(name)
    facts = handler.facts
    if handler.checkpoints is None or not facts.checkpoints:
        raise NotBuilt(f"{UNAVAILABLE}: handler {name} of kind {facts.kind} makes no checkpoints")
    if facts.checkpoint_problem:
        raise WrongState(f"{UNAVAILABLE}: {facts.checkpoint_problem}")
    return handler.checkpoints


def _suitable(record: ContainerRecord, sandbox: SandboxRecord) -> ContainerRecord:
    move_container(record, ContainerVerb.CHECKPOINT)
    what = f"cannot checkpoint container {record.id}"
    if record.config.security.namespaces.pid != NamespaceMode.CONTAINER:
        raise WrongState(f"{what}: it shares its process ids with others")
    if sandbox.config.user_namespace is not None:
        raise WrongState(f"{what}: its pod has a user namespace")
    return record
