"""Exec, Attach and PortForward: first a ticket for what was checked, then, with it, the stream itself.

look up   the container (RUNNING) or the sandbox (READY), at both times
act       the handler's streams: exec, attach or dial; then bytes between both ends
✗         a client that goes away: the command's input ends, and by the settings the command; its terminal
          hangs up; otherwise its output is dropped until it has ended
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from crib.ends import ByteStream, Session, TerminalStreams
from crib.engine.core import Core
from crib.engine.streams.pump import carry, drain, refused
from crib.engine.streams.tickets import Tickets
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CannotExecute, CribError, InvalidRequest
from crib.model.lifecycle import ContainerVerb, SandboxVerb, move_container, move_sandbox
from crib.model.streams import (
    AttachRequest,
    ExecProcess,
    ExecRequest,
    ForwardRequest,
    PodAddress,
    StreamRequest,
)
from crib.ports.streams import ContainerStreams

_log = logging.getLogger(__name__)

ABANDONED = 256
"""Commands whose clients have gone, and whose output is still read, at most; then the oldest get SIGPIPE."""


class Streams:
    """The verbs."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tickets = Tickets(core.clock, lambda: core.settings.streaming.token_time)
        self._abandoned: dict[Session, asyncio.Task[None]] = {}

    def issue_exec(self, text: str, process: ExecProcess) -> str:
        """A token for a command in a running container. NotFound, WrongState, InvalidRequest."""
        if not process.argv:
            raise InvalidRequest("no command is given", field="cmd")
        _check_streams(process)
        record = self._running(text, ContainerVerb.EXEC)
        return self._tickets.issue(ExecRequest(record.id, process))

    def issue_attach(self, text: str, wanted: AttachRequest) -> str:
        """A token for the streams of a running container's first process; `wanted.container` is ignored.

        Input for a container that takes none is read and dropped, as clients always ask for it.
        """
        _check_streams(wanted)
        record = self._running(text, ContainerVerb.ATTACH)
        if wanted.tty != record.config.tty:
            has = "has a terminal" if record.config.tty else "has no terminal"
            raise InvalidRequest(f"container {record.id} {has}", field="tty")
        return self._tickets.issue(replace(wanted, container=record.id))

    def issue_forward(self, text: str, wanted: ForwardRequest) -> str:
        """A token for connections into a ready sandbox; `wanted.sandbox` is ignored."""
        record = self._core.sandbox(text)
        move_sandbox(record, SandboxVerb.FORWARD)
        return self._tickets.issue(replace(wanted, sandbox=record.id))

    def redeem(self, token: str) -> StreamRequest | None:
        """What the token was given for; it is of no use any more."""
        return self._tickets.redeem(token)

    async def exec(self, request: ExecRequest, client: TerminalStreams) -> int | None:
        """Run the command; its exit code after all its output is with the client, None without a client."""
        record = self._running(request.container, ContainerVerb.EXEC)
        process = request.process
        if self._core.settings.streaming.kill_abandoned:
            process = replace(process, contained=True)
        try:
            session = await self._open(
                f"exec in {record.id}",
                self._streams_of(record).exec(record, process),
                lambda session: self._let_go(session, hang_up=process.tty),
            )
        except CannotExecute as error:
            return await refused(error, client.stdout, client.stderr)
        try:
            code = await carry(client, session)
        except asyncio.CancelledError:
            self._let_go(session, hang_up=process.tty)
            raise
        except BaseException:
            await session.close()
            raise
        if code is None:
            self._let_go(session, hang_up=process.tty)
        else:
            await session.close()
        return code

    async def exec_detached(self, text: str, process: ExecProcess) -> None:
        """Start a command that nobody follows, and come back when it runs. CannotExecute, WrongState."""
        record = self._running(text, ContainerVerb.EXEC)
        session = await self._open(
            f"detached exec in {record.id}",
            self._streams_of(record).exec(record, replace(process, detached=True)),
            self._abandon,
        )
        self._abandon(session)

    async def attach(self, request: AttachRequest, client: TerminalStreams) -> int | None:
        """Join the container's streams until it ends or the client goes; the container's exit code."""
        record = self._running(request.container, ContainerVerb.ATTACH)
        session = await self._open(
            f"attach to {record.id}", self._streams_of(record).attach(record, request), self._close
        )
        try:
            return await carry(client, session)
        finally:
            await session.close()

    async def dial(self, request: ForwardRequest, address: PodAddress) -> ByteStream:
        """Connect to something in the pod; InvalidRequest for a port that was not asked for."""
        core = self._core
        record = core.sandbox(request.sandbox)
        move_sandbox(record, SandboxVerb.FORWARD)
        if not _allows(request, address):
            raise InvalidRequest(f"{address} was not asked for when this stream was", field="port")
        running = [row for row in core.containers_of(record.id) if row.state is ContainerState.RUNNING]
        return await core.caretaker(record).streams.dial(record, running, address)

    async def _open(
        self, what: str, opening: Coroutine[Any, Any, Session], undo: Callable[[Session], None]
    ) -> Session:
        """A session that comes about after its caller was cancelled is given to `undo`."""
        task = self._core.keeper.start(what, opening)

        def undo_if_open(_: object) -> None:
            if not task.cancelled() and task.exception() is None:
                undo(task.result())

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(undo_if_open)
            raise

    def _let_go(self, session: Session, *, hang_up: bool) -> None:
        """The client of a command has gone."""
        if self._core.settings.streaming.kill_abandoned:
            self._core.keeper.start("end of an abandoned command", _kill(session))
        elif hang_up:
            self._close(session)
        else:
            self._abandon(session)

    def _close(self, session: Session) -> None:
        self._core.keeper.start("end of a stream", session.close())

    def _abandon(self, session: Session) -> None:
        """The command continues without a client: nobody feeds it, and what it writes is dropped."""
        while len(self._abandoned) >= ABANDONED:
            oldest = next(iter(self._abandoned))
            self._abandoned.pop(oldest).cancel()
        work = self._drain(session)
        self._abandoned[session] = self._core.keeper.serve("output of an abandoned command", work)

    async def _drain(self, session: Session) -> None:
        try:
            if session.stdin is not None:
                await session.stdin.close()
            await drain(session)
        except CribError as error:
            _log.info("an abandoned command failed: %s", error)
        finally:
            self._abandoned.pop(session, None)
            await session.close()

    def _running(self, text: str, verb: ContainerVerb) -> ContainerRecord:
        record = self._core.container(text)
        move_container(record, verb)
        return record

    def _streams_of(self, record: ContainerRecord) -> ContainerStreams:
        return self._core.caretaker(self._core.sandbox(record.sandbox_id)).streams


def _check_streams(wanted: ExecProcess | AttachRequest) -> None:
    """As the CRI says of ExecRequest and AttachRequest."""
    if wanted.tty and wanted.stderr:
        raise InvalidRequest("a terminal has one output: tty and stderr exclude each other", field="stderr")
    if not (wanted.stdin or wanted.stdout or wanted.stderr):
        raise InvalidRequest("one of stdin, stdout and stderr must be asked for", field="stdout")


def _allows(request: ForwardRequest, address: PodAddress) -> bool:
    if request.beyond:
        return address in request.beyond
    return address.kind == "tcp" and (not request.ports or address.port in request.ports)


async def _kill(session: Session) -> None:
    try:
        await session.kill()
    finally:
        await session.close()
