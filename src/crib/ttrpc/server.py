"""The end that is called."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from crib.ttrpc.carriers import FrameCarrier
from crib.ttrpc.client import NANOSECONDS
from crib.ttrpc.errors import CallFailed, PeerLost
from crib.ttrpc.reading import Reading
from crib.ttrpc.streams import Incoming, Messages
from crib.wire import ttrpc
from crib.wire import ttrpc_calls as calls
from crib.wire.rpc_codes import Code

MOST_RUNNING = 64
"""Handlers at a time on one connection. Further calls wait, and the connection is not read meanwhile."""
MOST_QUEUED = 64
"""Of those that wait. What came with them stays as bytes."""
MOST_STREAMS = 64
"""Calls with many messages at a time. Further ones are refused: those that run may need
what is sent behind."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedCall:
    """What a handler is asked."""

    service: str
    method: str
    payload: bytes
    metadata: Mapping[str, tuple[str, ...]]
    limit: float | None
    """Seconds that its caller waits; the handler is cancelled after that."""


Handler = Callable[[ServedCall], Awaitable[bytes]]
"""Answers one request. CallFailed becomes the answer's
code and message; after any other error the code is UNKNOWN."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method with many messages, which the handler takes and sends itself. The call ends with the
    handler."""

    handler: Callable[[ServedCall, ServedStream], Awaitable[None]]


Services = Mapping[str, Mapping[str, Handler | Streaming]]
"""By the names of services and methods."""


class StartTask(Protocol):
    """What starts tasks, as keepers and groups do."""

    def __call__(self, name: str, work: Coroutine[Any, Any, None], /) -> asyncio.Task[None]: ...


class TtrpcServer:
    """Answers calls over one connection. Once the client is gone, its calls' handlers are cancelled."""

    def __init__(
        self, carrier: FrameCarrier, services: Services, start: StartTask, most_running: int = MOST_RUNNING
    ) -> None:
        self._carrier = carrier
        self._reading = Reading(carrier)
        self._services = services
        self._start = start
        self._most_running = most_running
        self._calls = calls.ServerCalls()
        self._queue: deque[tuple[calls.Called, Handler]] = deque()
        self._running: dict[asyncio.Task[None], int] = {}
        self._streams: dict[int, ServedStream] = {}
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        carrier.attach(self)

    async def gone(self) -> str:
        """Returns when the connection is gone, with the reason."""
        return await asyncio.shield(self._gone)

    @property
    def running(self) -> int:
        """Handlers that run."""
        return len(self._running)

    def close(self) -> None:
        """End the connection, once what is unsent has gone."""
        self._carrier.close()

    # what the carrier calls

    def received(self, data: bytes) -> None:
        self._calls.feed(data)
        self._take()

    def lost(self, reason: str) -> None:
        self._gone.set_result(reason)
        self._queue.clear()
        for served in self._streams.values():
            served.incoming.end(PeerLost(reason))
        for task in self._running:
            task.cancel()

    # the calls

    def _take(self) -> None:
        """Handle what has come, as far as there is room for it."""
        try:
            while len(self._queue) < MOST_QUEUED and (event := self._calls.next_event()) is not None:
                self._happened(event)
        except ttrpc.Malformed as error:
            self._carrier.abort(f"the peer sent what is no ttrpc: {error}")
        except PeerLost:
            pass  # `lost` follows
        if self._queue:
            self._reading.hold("calls")
        else:
            self._reading.release("calls")

    def _happened(self, event: calls.Called | calls.Received | calls.Ended | calls.Refused) -> None:
        match event:
            case calls.Called():
                self._called(event)
            case calls.Received(stream, data) if stream in self._streams:
                self._streams[stream].incoming.put(data)
            case calls.Ended(stream) if stream in self._streams:
                self._streams[stream].incoming.end()
            case calls.Refused(stream, reply):
                for task, of in self._running.items():
                    if of == stream:
                        task.cancel()
                self._reply(reply)

    def _called(self, called: calls.Called) -> None:
        request = called.request
        found = self._services.get(request.service, {}).get(request.method)
        if found is None:
            what = "method" if request.service in self._services else "service"
            self._refuse(called, Code.UNIMPLEMENTED, f"no {what} {request.service}/{request.method} here")
        elif isinstance(found, Streaming):
            self._called_with_stream(called, found)
        elif called.shape is not calls.Shape.UNARY:
            self._refuse(called, Code.INVALID_ARGUMENT, f"{request.method} takes and gives one message")
        elif self._has_room():
            self._begin(called, partial(found, _served(request)))
        else:
            self._queue.append((called, found))

    def _called_with_stream(self, called: calls.Called, method: Streaming) -> None:
        if called.shape is calls.Shape.UNARY:
            self._refuse(called, Code.INVALID_ARGUMENT, f"{called.request.method} answers with many messages")
        elif len(self._streams) >= MOST_STREAMS:
            self._refuse(called, Code.RESOURCE_EXHAUSTED, f"{MOST_STREAMS} streams run already")
        else:
            incoming = Incoming(self._reading)
            served = self._streams[called.stream] = ServedStream(self, called.stream, incoming)
            if called.shape is calls.Shape.DOWN:
                incoming.end()
            self._begin(called, partial(method.handler, _served(called.request), served))

    def _begin(self, called: calls.Called, work: Callable[[], Awaitable[bytes | None]]) -> None:
        request = called.request
        task = self._start(f"{request.service}/{request.method}", self._serve(called, work))
        self._running[task] = called.stream
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        stream = self._running.pop(task)
        if (served := self._streams.pop(stream, None)) is not None:
            served.incoming.drop()
        while self._queue and self._has_room():
            called, handler = self._queue.popleft()
            self._begin(called, partial(handler, _served(called.request)))
        if not self._gone.done():
            self._take()

    def _has_room(self) -> bool:
        return len(self._running) - len(self._streams) < self._most_running

    async def _serve(self, called: calls.Called, work: Callable[[], Awaitable[bytes | None]]) -> None:
        request = called.request
        limit = _seconds(request)
        try:
            async with asyncio.timeout(limit) as time:
                payload = await work()
            answer = None if payload is None else ttrpc.Response(payload=payload)
        except asyncio.CancelledError:
            self._answer(called.stream, ttrpc.Response(Code.CANCELLED, f"{request.method} was cancelled"))
            raise
        except CallFailed as error:
            answer = ttrpc.Response(error.code, str(error))
        except PeerLost as error:  # perhaps another peer, that the handler has called
            answer = ttrpc.Response(Code.UNAVAILABLE, str(error))
        except Exception as error:
            if isinstance(error, TimeoutError) and time.expired():
                answer = ttrpc.Response(
                    Code.DEADLINE_EXCEEDED, f"{request.method} was not done within {limit} s"
                )
            else:
                _log.exception("%s/%s failed", request.service, request.method)
                answer = ttrpc.Response(Code.UNKNOWN, f"{type(error).__name__}: {error}")
        try:
            await self._carrier.drain()
            self._answer(called.stream, answer)
        except PeerLost:
            pass  # nobody is left to be answered

    def _answer(self, stream: int, answer: ttrpc.Response | None) -> None:
        try:
            if answer is None:
                self._carrier.put(self._calls.end(stream))
            else:
                self._carrier.put(self._calls.respond(stream, answer))
        except ttrpc.Oversized as error:
            self._carrier.put(
                self._calls.respond(stream, ttrpc.Response(Code.RESOURCE_EXHAUSTED, str(error)))
            )
        except (calls.StreamOver, PeerLost):
            pass  # refused, or gone

    def _refuse(self, called: calls.Called, code: Code, message: str) -> None:
        self._reply(self._calls.respond(called.stream, ttrpc.Response(code, message)))

    def _reply(self, reply: bytes) -> None:
        """An answer that no handler waits to send."""
        if self._carrier.is_full:
            self._carrier.abort("the peer sends what is refused, and does not read the answers")
        else:
            self._carrier.put(reply)

    async def send(self, stream: int, message: bytes) -> None:
        """A message of a stream, for its handler."""
        await self._carrier.drain()
        try:
            self._carrier.put(self._calls.data(stream, message))
        except calls.StreamOver as error:
            raise PeerLost(str(error)) from None


class ServedStream(Messages):
    """The messages of one call, for its handler."""

    def __init__(self, server: TtrpcServer, stream: int, incoming: Incoming) -> None:
        self._server = server
        self._stream = stream
        self.incoming = incoming

    async def send(self, message: bytes) -> None:
        """A message to the client. PeerLost when it is gone, ttrpc.Oversized."""
        await self._server.send(self._stream, message)

    async def receive(self) -> bytes | None:
        """The client's next message; None after the last one."""
        return await self.incoming.take()


def _seconds(request: ttrpc.Request) -> float | None:
    return max(0.0, request.timeout_nano / NANOSECONDS) if request.timeout_nano else None


def _served(request: ttrpc.Request) -> ServedCall:
    metadata: dict[str, tuple[str, ...]] = {}
    for key, value in request.metadata:
        metadata[key] = (*metadata.get(key, ()), value)
    return ServedCall(request.service, request.method, request.payload, metadata, _seconds(request))
