"""ExecSync and ReopenContainerLog: what is done to a running container."""

from __future__ import annotations

import asyncio

from crib.ends import ByteSource
from crib.engine.core import Core
from crib.model.container import ContainerRecord, ExecCommand, ExecResult
from crib.model.errors import Broken, InvalidRequest, TimedOut, Unavailable
from crib.model.lifecycle import ContainerVerb, move_container
from crib.model.streams import ExecProcess
from crib.ports.streams import ContainerStreams
from crib.tasks.groups import Beside
from crib.tasks.keeper import at_stage

DYING_TIME = 1.0
"""Seconds that commands get to die from SIGKILL when the daemon stops."""


class ExecSync:
    """Runs a command in a container to its end."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._under_way: set[asyncio.Task[ExecResult]] = set()
        self._stopping = False

    async def __call__(self, text: str, command: ExecCommand) -> ExecResult:
        core = self._core
        if not command.argv:
            raise InvalidRequest("no command is given", field="cmd")
        record = core.container(text)
        move_container(record, ContainerVerb.EXEC)
        streams = core.caretaker(core.sandbox(record.sandbox_id)).streams
        work = core.keeper.begin("exec", self._until_we_stop(streams, record, command), record.id)
        self._under_way.add(work.task)
        work.task.add_done_callback(self._under_way.discard)
        try:
            return await work.wait()
        except asyncio.CancelledError:
            work.task.cancel()  # nobody else can hear of it: see docs/adr/0058
            raise

    async def end_after(self, grace: float) -> None:
        """The daemon stops: in `grace` seconds end the commands that still run, and answer their callers."""
        await asyncio.sleep(grace)
        self._stopping = True
        under_way = tuple(self._under_way)
        for _once_more in range(2):
            for work in under_way:
                work.cancel()
            if under_way:
                await asyncio.wait(under_way, timeout=DYING_TIME)

    async def _until_we_stop(
        self, streams: ContainerStreams, record: ContainerRecord, command: ExecCommand
    ) -> ExecResult:
        """See `run_command`; Unavailable when it was ended, or left, because the daemon stops."""
        task = asyncio.current_task()
        assert task is not None
        stopping = f"crib is stopping: {_named(command, record)}"
        try:
            return await run_command(streams, record, command)
        except asyncio.CancelledError:
            if not self._stopping:
                raise  # abandoned
            # Once: all of it has been killed. Twice: that took too long.
            fate = "was ended" if task.cancelling() == 1 else "may still run"
            raise Unavailable(f"{stopping} {fate}") from None
        except Broken as error:
            if not (self._stopping and task.cancelling()):
                raise
            raise Unavailable(f"{stopping} may still run: {error}") from None


async def run_command(streams: ContainerStreams, record: ContainerRecord, command: ExecCommand) -> ExecResult:
    """Run it to its end; what it writes is read to the end, and the beginning of it kept.

    TimedOut when its time-out passed. All of its processes are gone then, and after a cancellation.
    """
    # Contained also without a time-out: only so can all of it be ended, by us or after us (Handler.sweep).
    process = ExecProcess(command.argv, stdout=True, stderr=True, contained=True)
    try:
        async with asyncio.timeout(command.timeout if command.timeout > 0 else None) as limit:
            with at_stage("its start"):
                session = await streams.exec(record, process)
            try:
                with at_stage("its own end"):
                    async with Beside() as beside:  # a full pipe of either would hold up the command
                        errors = beside.start("output", _beginning(session.stderr, command.output_limit))
                        stdout = await _beginning(session.stdout, command.output_limit)
                        stderr = await errors
                    return ExecResult(await session.wait(), stdout, stderr)
            except asyncio.CancelledError:
                await session.kill()
                raise
            finally:
                await session.close()
    except (TimeoutError, Broken) as error:
        if not limit.expired():
            raise
        left = f": {error}" if isinstance(error, Broken) else ""
        what = _named(command, record)
        raise TimedOut(f"{what} took longer than {command.timeout:g} s{left}") from None


def _named(command: ExecCommand, record: ContainerRecord) -> str:
    return f"exec of {command.argv[0]!r} in container {record.id}"


async def _beginning(source: ByteSource | None, limit: int) -> bytes:
    """The first `limit` bytes; the rest is read and dropped, so that the command never blocks."""
    kept = bytearray()
    while source is not None and (data := await source.read()):
        kept += data[: limit - len(kept)]
    return bytes(kept)


class ReopenLog:
    """Has the container's log reopened, after the kubelet moved it away."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str) -> None:
        core = self._core
        record = core.container(text)
        move_container(record, ContainerVerb.REOPEN_LOG)
        logs = core.caretaker(core.sandbox(record.sandbox_id)).logs
        await core.keeper.begin("reopen log", logs.reopen(record), record.id).wait()
