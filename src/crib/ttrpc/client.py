"""The end that calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Self

from crib.ttrpc.carriers import FrameCarrier
from crib.ttrpc.errors import CallFailed, CallTimedOut, PeerLost
from crib.ttrpc.reading import Reading
from crib.ttrpc.streams import Incoming, Messages
from crib.wire import ttrpc
from crib.wire import ttrpc_calls as calls
from crib.wire.rpc_codes import Code

MOST_CALLS = 4096
"""At a time on one connection; further ones wait. Some last: a shim is asked for the end of each process."""
NANOSECONDS = 1_000_000_000
MAX_SECONDS = (1 << 63) // NANOSECONDS


class TtrpcClient:
    """Calls over one connection, many at a time.

    Once the peer is gone, every call ends with PeerLost, those of the past and those to come.
    """

    def __init__(self, carrier: FrameCarrier, most_calls: int = MOST_CALLS) -> None:
        self._carrier = carrier
        self._reading = Reading(carrier)
        self._calls = calls.ClientCalls()
        self._slots = asyncio.Semaphore(most_calls)
        self._waiting: dict[int, asyncio.Future[ttrpc.Response | PeerLost]] = {}
        self._streams: dict[int, Incoming] = {}
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        carrier.attach(self)

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        limit: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """The answer to one request, within `limit` seconds, of which the peer is told. None: while it lives.

        CallFailed with the peer's code, CallTimedOut, PeerLost; ttrpc.Oversized if the request is too long.
        """
        request = ttrpc.Request(
            service, method, payload, _nanoseconds(limit), tuple((metadata or {}).items())
        )
        try:
            async with asyncio.timeout(limit), self._slots:
                response = await self._answer(request)
        except TimeoutError:
            raise CallTimedOut(f"{service}/{method} was not answered within {limit} s") from None
        return _payload(response)

    def stream(
        self,
        service: str,
        method: str,
        payload: bytes = b"",
        *,
        sends: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> CallStream:
        """A call with many messages: to be used as a context, at whose end nothing of it is awaited any more.

        With `sends` this end has messages to send as well. The caller bounds its time.
        """
        request = ttrpc.Request(service, method, payload, 0, tuple((metadata or {}).items()))
        return CallStream(self, request, calls.Shape.UP if sends else calls.Shape.DOWN)

    async def gone(self) -> str:
        """Returns when the connection is gone, with the reason."""
        return await asyncio.shield(self._gone)

    @property
    def is_gone(self) -> bool:
        """Whether it is."""
        return self._gone.done()

    def close(self) -> None:
        """End the connection, and every call on it."""
        self._carrier.close()

    # what the carrier calls

    def received(self, data: bytes) -> None:
        self._calls.feed(data)
        try:
            while (event := self._calls.next_event()) is not None:
                self._happened(event)
        except ttrpc.Malformed as error:
            self._carrier.abort(f"the peer sent what is no ttrpc: {error}")

    def lost(self, reason: str) -> None:
        self._gone.set_result(reason)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(PeerLost(reason))
        for incoming in self._streams.values():
            incoming.end(PeerLost(reason))

    # the calls

    async def _answer(self, request: ttrpc.Request) -> ttrpc.Response:
        await self.ready()
        stream, data = self._open(request, calls.Shape.UNARY)
        waiting: asyncio.Future[ttrpc.Response | PeerLost] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = waiting
        try:
            self._carrier.put(data)
            answer = await waiting
        finally:
            del self._waiting[stream]
            self._calls.forget(stream)
        if isinstance(answer, PeerLost):
            raise answer
        return answer

    def _open(self, request: ttrpc.Request, shape: calls.Shape) -> tuple[int, bytes]:
        try:
            return self._calls.open(request, shape)
        except calls.StreamOver as error:
            self._carrier.abort(str(error))
            raise PeerLost(str(error)) from None

    def _happened(self, event: calls.Answered | calls.Received | calls.Ended) -> None:
        if isinstance(event, calls.Answered):
            waiting = self._waiting.get(event.stream)
            if waiting is not None and not waiting.done():
                waiting.set_result(event.response)
        if (incoming := self._streams.get(event.stream)) is None:
            return
        match event:
            case calls.Received(_, data):
                incoming.put(data)
            case calls.Ended():
                incoming.end()
            case calls.Answered(_, ttrpc.Response(Code.OK, _, payload)):
                if payload:
                    incoming.put(payload)
                incoming.end()
            case calls.Answered(_, response):
                incoming.end(CallFailed(response.code, response.message))

    async def ready(self) -> None:
        """Returns when there is room to send. PeerLost when the connection is gone."""
        if self._gone.done():
            raise PeerLost(self._gone.result())
        if self._carrier.is_full:
            await self._carrier.drain()

    # what streams use

    def begin(self, request: ttrpc.Request, shape: calls.Shape) -> tuple[int, Incoming]:
        """A stream for `request`, which is sent."""
        stream, data = self._open(request, shape)
        incoming = self._streams[stream] = Incoming(self._reading)
        self._carrier.put(data)
        return stream, incoming

    def send(self, stream: int, message: bytes | None) -> None:
        """A message of a stream, or its end."""
        try:
            data = self._calls.end(stream) if message is None else self._calls.data(stream, message)
        except calls.StreamOver as error:
            raise CallFailed(Code.FAILED_PRECONDITION, str(error)) from None
        self._carrier.put(data)

    def forget(self, stream: int) -> None:
        """Nobody takes anything of this stream any more."""
        self._streams.pop(stream).drop()
        self._calls.forget(stream)


class CallStream(Messages):
    """One call with many messages."""

    _stream: int
    _incoming: Incoming

    def __init__(self, client: TtrpcClient, request: ttrpc.Request, shape: calls.Shape) -> None:
        self._client = client
        self._request = request
        self._shape = shape

    async def __aenter__(self) -> Self:
        await self._client.ready()
        self._stream, self._incoming = self._client.begin(self._request, self._shape)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.forget(self._stream)

    async def send(self, message: bytes) -> None:
        """A message to the peer. CallFailed if the peer has ended the call, PeerLost."""
        await self._client.ready()
        self._client.send(self._stream, message)

    async def end(self) -> None:
        """No more messages to the peer."""
        await self._client.ready()
        self._client.send(self._stream, None)

    async def receive(self) -> bytes | None:
        """The peer's next message; None after the last one. CallFailed with the peer's code, PeerLost."""
        return await self._incoming.take()


def _payload(response: ttrpc.Response) -> bytes:
    match response.code:
        case Code.OK:
            return response.payload
        case Code.DEADLINE_EXCEEDED:
            raise CallTimedOut(response.message)
    raise CallFailed(response.code, response.message)


def _nanoseconds(limit: float | None) -> int:
    return 0 if limit is None else max(1, int(min(limit, MAX_SECONDS - 1) * NANOSECONDS))
