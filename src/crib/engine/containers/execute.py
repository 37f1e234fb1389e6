"""ExecSync and ReopenContainerLog: what is done to a running container."""

from __future__ import annotations

import asyncio

from crib.engine.core import Core
from crib.model.container import ExecCommand, ExecResult
from crib.model.errors import InvalidRequest
from crib.model.lifecycle import move_container


class ExecSync:
    """Runs a command in a container to its end."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str, command: ExecCommand) -> ExecResult:
        core = self._core
        if not command.argv:
            raise InvalidRequest("no command is given", field="cmd")
        record = core.container(text)
        move_container(record, "exec")
        handler = core.caretaker(core.sandbox(record.sandbox_id))
        work = core.keeper.start(f"exec in {record.id}", handler.exec_sync(record, command))
        return await asyncio.shield(work)


class ReopenLog:
    """Has the container's log opened anew, after the kubelet moved it away."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str) -> None:
        core = self._core
        record = core.container(text)
        move_container(record, "reopen log")
        handler = core.caretaker(core.sandbox(record.sandbox_id))
        await asyncio.shield(core.keeper.start(f"reopen log of {record.id}", handler.reopen_log(record)))
