"""StartContainer: the created first process runs the container's command."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import replace
from functools import partial

from crib.engine.admission import AdmittedJoins
from crib.engine.core import Core
from crib.engine.hooks import container_view
from crib.model.container import ContainerRecord, ContainerState, Exit
from crib.model.errors import CribError, WrongState
from crib.model.events import EventType
from crib.model.ids import ContainerId
from crib.model.lifecycle import ContainerVerb, move_container
from crib.model.sandbox import SandboxRecord, SandboxState

START_FAILED = 128
"""Exit code of a container that never ran (as the peers report it)."""


class StartContainer:
    """Starts a created container; a second call while the first runs joins it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._joins: AdmittedJoins[None] = AdmittedJoins(core.keeper, "start container", core.admission)

    async def __call__(self, text: str) -> None:
        record = self._core.container(text)
        claim = self._core.claim(self._core.sandbox(record.sandbox_id), record.config.name)
        await self._joins.admitted(record.id, record, claim, lambda: self._start(record.id), record.id)

    async def _start(self, container: ContainerId) -> None:
        core = self._core
        async with core.locks.of(container), core.plugins.gate.telling():
            record = core.container(container)
            if record.state is ContainerState.RUNNING:
                return  # a retry, after a start whose answer the caller did not wait for
            move_container(record, ContainerVerb.START)
            core.refuse_if_faulty()
            sandbox = core.sandbox(record.sandbox_id)
            if sandbox.state is not SandboxState.READY:
                raise WrongState(
                    f"cannot start container {container}: its sandbox {sandbox.id} is {sandbox.state}"
                )
            containers = core.handler_of(sandbox).containers
            try:
                stage = core.timeline.of(sandbox.id)
                with stage("StartContainer", record.config.name):
                    view = partial(container_view, record, sandbox)
                    async with core.hooks.around("start_container", view, stage):
                        await core.plugins.starts(record, sandbox)
                        begun = await containers.start(record)
            except CribError as error:
                with suppress(CribError):  # what half started must not run on while it is shown as ended
                    await containers.signal(record, signal.SIGKILL, everyone=True)
                self._failed(record, sandbox, error)
                raise
            state = move_container(record, ContainerVerb.START)
            if begun is not None:
                record = replace(record, process=begun.process, monitor=begun.monitor)
            record = core.containers.put(replace(record, state=state, started_at=core.clock()))
            await core.plugins.started(record, sandbox)
        core.tell(EventType.STARTED, container, record.sandbox_id)

    def _failed(self, record: ContainerRecord, sandbox: SandboxRecord, error: CribError) -> None:
        core = self._core
        ended = replace(
            record,
            state=move_container(record, ContainerVerb.FAIL_START),
            finished_at=core.clock(),
            exit_code=START_FAILED,
            reason="StartError",
            message=str(error),
        )
        told = Exit(record.id, START_FAILED, ended.finished_at, never_ran=ended.message)
        core.ends.ended(ended, sandbox, told)
        core.containers.put(ended)
        core.plugins.ended(ended)
        core.tell_exited(record.id)
        core.tell(EventType.STOPPED, record.id, record.sandbox_id)
