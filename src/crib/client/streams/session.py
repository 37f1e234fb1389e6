"""Exec and attach: a command's streams, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakSet

from crib.client.connection import Connection
from crib.client.errors import RuntimeFailure
from crib.client.streams.link import UpgradeRefused, connect_spdy, connect_websocket
from crib.client.streams.runtime_stream import UNREAD_BYTES, Reader, RuntimeStream, Writer, open_streams
from crib.stubs.node.v1.node_pb2 import ExecAsRequest, ExecDetachedRequest
from crib.stubs.runtime.v1.api_pb2 import AttachRequest, ExecRequest, KeyValue
from crib.tunnel.inbox import Room
from crib.tunnel.link import Link
from crib.tunnel.spdy import ClientSession
from crib.tunnel.websocket import Channels, WebSocket
from crib.wire import remotecommand
from crib.wire.channel_messages import V5
from crib.wire.remotecommand import CHANNELS, SPDY_PROTOCOLS, Exited, SizeMessage, StreamType, Wanted

_SPDY_VERSION = SPDY_PROTOCOLS[0].name
_InWebSocket = TypeVar("_InWebSocket")
_OverSpdy = TypeVar("_OverSpdy")
Transport = Literal["auto", "spdy", "websocket"]
"""auto: a WebSocket with the newest protocol, or SPDY where the runtime does not speak that."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Which streams are wanted, and how they come here."""

    tty: bool = False
    """A terminal in the container; then there is no stderr."""
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    transport: Transport = "auto"
    ca_file: str = ""
    """PEM file of the authority that signed the runtime's certificate. Without one, a runtime on this node is
    trusted, and for another the system's authorities count (see `link.upgrade`)."""


class Session:
    """A command's streams; those that were not asked for are None.

    Read stdout and stderr while you wait: a few MiB are held for a reader that is late, then all streams
    pause.
    """

    def __init__(self, streams: Mapping[StreamType, RuntimeStream]) -> None:
        self._streams = streams
        self._status = bytearray()
        self.stdin: Writer | None = streams.get(StreamType.STDIN)
        self.stdout: Reader | None = streams.get(StreamType.STDOUT)
        self.stderr: Reader | None = streams.get(StreamType.STDERR)

    async def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in columns and rows; no effect without a terminal. Unavailable."""
        if stream := self._streams.get(StreamType.RESIZE):
            await stream.write(remotecommand.encode_resize(SizeMessage(width, height)))

    async def wait(self) -> int:
        """Wait for the exit code. RuntimeFailure with the runtime's words, Unavailable.

        An attach returns 0 when the container has ended. All output of the command has arrived by then, but
        may not have been read yet.
        """
        async for data in self._streams[StreamType.ERROR]:
            self._status += data[: remotecommand.MAX_STATUS + 1 - len(self._status)]
        if not self._status:
            raise RuntimeFailure("the runtime ended the streams and did not say how the command ended")
        outcome = remotecommand.decode_outcome(bytes(self._status), has_status=True)
        if isinstance(outcome, Exited):
            return outcome.code
        raise RuntimeFailure(outcome.message)


@dataclass(frozen=True, slots=True)
class ExecAs:
    """How a command differs from the container's first process; only crib can do it.

    `user` is NAME or UID, perhaps with :GROUP, of the container's own passwd and group; `working_dir` is
    absolute. What is empty is not different.
    """

    user: str = ""
    envs: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""


@contextlib.asynccontextmanager
async def exec(
    connection: Connection,
    container_id: str,
    argv: Sequence[str],
    options: StreamOptions = StreamOptions(),
    differently: ExecAs = ExecAs(),
) -> AsyncIterator[Session]:
    """Run a command in a container. Leaving the block ends the streams; the command may go on.

        async with streams.exec(crib, container_id, ["cat"], StreamOptions(stdin=True)) as session:
            await session.stdin.write(b"hello")
            await session.stdin.close()
            print(await session.stdout.read(), await session.wait())

    ClientError.
    """
    wanted = _wanted(options)

    async def ask() -> str:
        request = ExecRequest(
            container_id=container_id,
            cmd=argv,
            tty=wanted.tty,
            stdin=wanted.stdin,
            stdout=wanted.stdout,
            stderr=wanted.stderr,
        )
        if differently == ExecAs():
            return (await connection.call(connection.runtime.Exec, request)).url
        asked = ExecAsRequest(
            exec=request,
            user=differently.user,
            envs=_envs(differently),
            working_dir=differently.working_dir,
        )
        return (await connection.call(connection.node.ExecAs, asked)).url

    async with _session(connection, ask, wanted, options) as session:
        yield session


async def exec_detached(
    connection: Connection, container_id: str, argv: Sequence[str], differently: ExecAs = ExecAs()
) -> tuple[int, str]:
    """Start a command that reads nothing, whose output is dropped, and that goes on without us.

    The exit code is 0 if it runs; else 127 or 126, with the runtime's words: there is no such program, or it
    cannot be executed. NotOffered but by crib.
    """
    request = ExecDetachedRequest(
        container_id=container_id,
        cmd=argv,
        user=differently.user,
        envs=_envs(differently),
        working_dir=differently.working_dir,
    )
    reply = await connection.call(connection.node.ExecDetached, request)
    return reply.exit_code, reply.message


def _envs(differently: ExecAs) -> list[KeyValue]:
    return [KeyValue(key=key, value=value.encode()) for key, value in differently.envs.items()]


@contextlib.asynccontextmanager
async def attach(
    connection: Connection, container_id: str, options: StreamOptions = StreamOptions()
) -> AsyncIterator[Session]:
    """Join the streams of a container's first process; `tty` must be the container's. See `exec`."""
    wanted = _wanted(options)

    async def ask() -> str:
        request = AttachRequest(
            container_id=container_id,
            tty=wanted.tty,
            stdin=wanted.stdin,
            stdout=wanted.stdout,
            stderr=wanted.stderr,
        )
        return (await connection.call(connection.runtime.Attach, request)).url

    async with _session(connection, ask, wanted, options) as session:
        yield session


def _wanted(options: StreamOptions) -> Wanted:
    return Wanted(options.stdin, options.stdout, options.stderr and not options.tty, options.tty)


@contextlib.asynccontextmanager
async def _session(
    connection: Connection, ask: Callable[[], Awaitable[str]], wanted: Wanted, options: StreamOptions
) -> AsyncIterator[Session]:
    kinds = wanted.streams(resize=True)

    async def in_websocket() -> WebSocket:
        return await connect_websocket(await ask(), V5.name, options.ca_file)

    async def over_spdy() -> Link:
        return await connect_spdy(await ask(), (_SPDY_VERSION,), options.ca_file)

    carrier = await first_spoken(connection, options.transport, in_websocket, over_spdy)
    if isinstance(carrier, WebSocket):
        numbers = {kind: CHANNELS.index(kind) for kind in kinds}
        channels = Channels(carrier, V5, numbers.values(), Room(UNREAD_BYTES))
        by_number = channels.by_number
        outcome = by_number[numbers[StreamType.ERROR]]
        async with running(channels.run(), carrier.abort):
            yield Session({kind: RuntimeStream(by_number[at], outcome) for kind, at in numbers.items()})
        return
    session = ClientSession(carrier, Room(UNREAD_BYTES))
    # The error stream first: it says what is wrong with the others.
    ordered = sorted(kinds, key=lambda kind: (kind is not StreamType.ERROR, CHANNELS.index(kind)))
    async with running(session.run(), carrier.abort):
        opened = await open_streams(session, [remotecommand.stream_headers(kind) for kind in ordered])
        yield Session(dict(zip(ordered, opened, strict=True)))


@contextlib.asynccontextmanager
async def running(pump: Coroutine[Any, Any, None], abort: Callable[[], None]) -> AsyncIterator[None]:
    """A connection's pump runs during the block; then the connection is closed."""
    task = asyncio.ensure_future(pump)
    try:
        yield
    finally:
        abort()
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()


_without_websocket: WeakSet[Connection] = WeakSet()
"""Connections to runtimes that were asked for a WebSocket and refused."""


async def first_spoken(
    connection: Connection,
    transport: Transport,
    in_websocket: Callable[[], Awaitable[_InWebSocket]],
    over_spdy: Callable[[], Awaitable[_OverSpdy]],
) -> _InWebSocket | _OverSpdy:
    """The result of the first way that the runtime does not refuse. Each way requests its own URL."""
    if transport == "spdy" or (transport == "auto" and connection in _without_websocket):
        return await over_spdy()
    try:
        return await in_websocket()
    except UpgradeRefused:
        if transport == "websocket":
            raise
    opened = await over_spdy()
    _without_websocket.add(connection)
    return opened
