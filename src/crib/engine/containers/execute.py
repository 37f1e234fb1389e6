"""ExecSync and ReopenContainerLog: what is done to a running container."""

from __future__ import annotations

import asyncio

from crib.ends import ByteSource
from crib.engine.core import Core
from crib.model.container import ContainerRecord, ExecCommand, ExecResult
from crib.model.errors import Broken, InvalidRequest, TimedOut
from crib.model.lifecycle import move_container
from crib.model.streams import ExecProcess
from crib.ports import Handler


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
        return await core.keeper.begin("exec", run_command(handler, record, command), record.id).wait()


async def run_command(handler: Handler, record: ContainerRecord, command: ExecCommand) -> ExecResult:
    """Run it to its end; what it writes is read to the end, and the beginning of it kept.

    TimedOut when its time-out passed: all of its processes are gone then.
    """
    limited = command.timeout > 0
    process = ExecProcess(command.argv, stdout=True, stderr=True, contained=limited)
    what = f"exec of {command.argv[0]!r} in container {record.id}"
    try:
        async with asyncio.timeout(command.timeout if limited else None) as limit:
            session = await handler.exec(record, process)
            try:
                stdout, stderr = await asyncio.gather(
                    _beginning(session.stdout, command.output_limit),
                    _beginning(session.stderr, command.output_limit),
                )
                return ExecResult(await session.wait(), stdout, stderr)
            except asyncio.CancelledError:
                # Cancelled once more (the daemon ends) it goes on without us.
                await session.kill()
                raise
            finally:
                await session.close()
    except (TimeoutError, Broken) as error:
        if not limit.expired():
            raise
        left = f": {error}" if isinstance(error, Broken) else ""
        raise TimedOut(f"{what} took longer than {command.timeout:g} s{left}") from None


async def _beginning(source: ByteSource | None, limit: int) -> bytes:
    """The first `limit` bytes; the rest is read and dropped, so that the command never blocks."""
    kept = bytearray()
    while source is not None and (data := await source.read()):
        kept += data[: limit - len(kept)]
    return bytes(kept)


class ReopenLog:
    """Has the container's log opened anew, after the kubelet moved it away."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str) -> None:
        core = self._core
        record = core.container(text)
        move_container(record, "reopen log")
        handler = core.caretaker(core.sandbox(record.sandbox_id))
        await core.keeper.begin("reopen log", handler.reopen_log(record), record.id).wait()
