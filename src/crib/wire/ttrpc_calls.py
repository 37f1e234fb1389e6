"""Calls of ttrpc at either end of a connection: bytes in, events out, and the bytes to send.

`ClientCalls` opens streams, `ServerCalls` answers them. Neither waits or keeps time. The protocol has no
cancellation and no flow control: a call that the client has given up is forgotten, and its late answer is
dropped; whoever feeds bytes bounds what it has not taken yet.

A broken connection is `ttrpc.Malformed` out of `next_event`. What is wrong with one stream only is told to
the peer, or is an event. A message and its sender's end in one frame are two events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from crib.wire import ttrpc
from crib.wire.rpc_codes import Code
from crib.wire.ttrpc import NO_DATA, REMOTE_CLOSED, REMOTE_OPEN, Frame, Kind, Request, Response, Skipped


class Shape(Enum):
    """What a client sends in one call."""

    UNARY = 0
    """A request; it gets a response."""
    DOWN = REMOTE_CLOSED
    """A request; it gets data."""
    UP = REMOTE_OPEN
    """A request and data; it gets a response or data."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A call has ended with a response, which may be an error."""

    stream: int
    response: Response


@dataclass(frozen=True, slots=True)
class Received:
    """One message on a stream."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer sends no more on a stream. At the client the call is over."""

    stream: int


@dataclass(frozen=True, slots=True)
class Called:
    """A client calls. If it is `open`, it sends data."""

    stream: int
    request: Request
    shape: Shape


@dataclass(frozen=True, slots=True)
class Refused:
    """What a client sent on a stream cannot be; `reply` is to be sent. The stream is over, if it was one."""

    stream: int
    reply: bytes


class StreamOver(ValueError):
    """Nothing more can be sent on this stream."""


class ClientCalls:
    """The end that calls."""

    def __init__(self) -> None:
        self._frames = ttrpc.FrameReader()
        self._next = 1
        self._open: dict[int, _ClientStream] = {}
        self._due: Ended | None = None

    def open(self, request: Request, shape: Shape = Shape.UNARY) -> tuple[int, bytes]:
        """A stream of its own, and what to send before anything on a later stream. Oversized leaves none."""
        if self._next > ttrpc.MAX_STREAM:
            raise StreamOver("the connection has no more streams")
        stream = self._next
        data = ttrpc.frame(stream, Kind.REQUEST, shape.value, ttrpc.encode_request(request))
        self._next += 2
        self._open[stream] = _ClientStream(shape)
        return stream, data

    def data(self, stream: int, message: bytes) -> bytes:
        """One message to the server."""
        self._sending(stream)
        return ttrpc.frame(stream, Kind.DATA, 0, message)

    def end(self, stream: int) -> bytes:
        """No more messages to the server."""
        self._sending(stream).local_closed = True
        return ttrpc.frame(stream, Kind.DATA, REMOTE_CLOSED | NO_DATA)

    def forget(self, stream: int) -> None:
        """Nobody waits for this call any more."""
        self._open.pop(stream, None)

    def feed(self, data: bytes) -> None:
        """What has come in."""
        self._frames.feed(data)

    def next_event(self) -> Answered | Received | Ended | None:
        """What has come, one event at a time; None if nothing more is complete."""
        if due := self._due:
            self._due = None
            return due
        while (frame := self._frames.next()) is not None:
            if frame.stream >= self._next or frame.stream % 2 == 0:
                raise ttrpc.Malformed(f"an answer on stream {frame.stream}, which was never opened")
            state = self._open.get(frame.stream)
            if state is not None and (event := self._event(frame, state)) is not None:
                return event
        return None

    def _event(self, frame: Frame | Skipped, state: _ClientStream) -> Answered | Received | Ended | None:
        if isinstance(frame, Skipped):
            return self._over(frame.stream, Code.RESOURCE_EXHAUSTED, _too_long(frame))
        if frame.kind == Kind.RESPONSE:
            try:
                response = ttrpc.decode_response(frame.data)
            except ttrpc.Malformed as error:
                return self._over(frame.stream, Code.INTERNAL, f"the peer's answer cannot be read: {error}")
            del self._open[frame.stream]
            return Answered(frame.stream, response)
        if frame.kind != Kind.DATA:
            return None  # a type of a later version
        if state.shape is Shape.UNARY:
            return self._over(frame.stream, Code.INTERNAL, "the peer sent data where one response is due")
        ended = None
        if frame.flags & REMOTE_CLOSED:
            del self._open[frame.stream]
            ended = Ended(frame.stream)
        if frame.flags & NO_DATA:
            return ended
        self._due = ended
        return Received(frame.stream, frame.data)

    def _over(self, stream: int, code: Code, message: str) -> Answered:
        del self._open[stream]
        return Answered(stream, Response(code, message))

    def _sending(self, stream: int) -> _ClientStream:
        state = self._open.get(stream)
        if state is None or state.local_closed or state.shape is not Shape.UP:
            raise StreamOver(f"stream {stream} takes no more data")
        return state


class ServerCalls:
    """The end that is called."""

    def __init__(self) -> None:
        self._frames = ttrpc.FrameReader()
        self._last = 0
        self._open: dict[int, _ServerStream] = {}
        self._due: Ended | None = None

    def respond(self, stream: int, response: Response) -> bytes:
        """The answer to a call, which ends it. Oversized leaves the call open, for a shorter answer."""
        self._sending(stream)
        data = ttrpc.frame(stream, Kind.RESPONSE, 0, ttrpc.encode_response(response))
        del self._open[stream]
        return data

    def data(self, stream: int, message: bytes) -> bytes:
        """One message to the client."""
        if self._sending(stream).shape is Shape.UNARY:
            raise StreamOver(f"stream {stream} takes one response and no data")
        return ttrpc.frame(stream, Kind.DATA, 0, message)

    def end(self, stream: int) -> bytes:
        """No more messages to the client, which ends the call."""
        if self._sending(stream).shape is Shape.UNARY:
            raise StreamOver(f"stream {stream} takes one response and no data")
        del self._open[stream]
        return ttrpc.frame(stream, Kind.DATA, REMOTE_CLOSED | NO_DATA)

    def feed(self, data: bytes) -> None:
        """What has come in."""
        self._frames.feed(data)

    @property
    def held(self) -> int:
        """Bytes that no event was made of yet."""
        return self._frames.held

    def next_event(self) -> Called | Received | Ended | Refused | None:
        """What has come, one event at a time; None if nothing more is complete."""
        if due := self._due:
            self._due = None
            return due
        while (frame := self._frames.next()) is not None:
            if (event := self._event(frame)) is not None:
                return event
        return None

    def _event(self, frame: Frame | Skipped) -> Called | Received | Ended | Refused | None:
        if frame.stream % 2 == 0:
            return self._refused(frame.stream, Code.INVALID_ARGUMENT, "a client's streams have odd numbers")
        if frame.kind == Kind.REQUEST:
            if frame.stream <= self._last:
                return self._refused(frame.stream, Code.INVALID_ARGUMENT, "numbers of streams only grow")
            self._last = frame.stream
        if isinstance(frame, Skipped):
            return self._refused(frame.stream, Code.RESOURCE_EXHAUSTED, _too_long(frame))
        if frame.kind == Kind.REQUEST:
            return self._called(frame)
        if frame.kind == Kind.DATA:
            return self._received(frame)
        return None  # a type of a later version

    def _called(self, frame: Frame) -> Called | Refused:
        try:
            request = ttrpc.decode_request(frame.data)
        except ttrpc.Malformed as error:
            return self._refused(frame.stream, Code.INVALID_ARGUMENT, f"the request cannot be read: {error}")
        if frame.flags & REMOTE_OPEN:
            shape = Shape.UP
        else:
            shape = Shape.DOWN if frame.flags & REMOTE_CLOSED else Shape.UNARY
        self._open[frame.stream] = _ServerStream(shape, remote_closed=shape is not Shape.UP)
        return Called(frame.stream, request, shape)

    def _received(self, frame: Frame) -> Received | Ended | Refused | None:
        state = self._open.get(frame.stream)
        if state is None:
            if frame.stream <= self._last:
                return None  # sent before the client knew of our answer
            return self._refused(frame.stream, Code.INVALID_ARGUMENT, "data before the request")
        if state.remote_closed:
            return self._refused(frame.stream, Code.INVALID_ARGUMENT, "data after the end of data")
        state.remote_closed = bool(frame.flags & REMOTE_CLOSED)
        ended = Ended(frame.stream) if state.remote_closed else None
        if frame.flags & NO_DATA:
            return ended
        self._due = ended
        return Received(frame.stream, frame.data)

    def _refused(self, stream: int, code: Code, message: str) -> Refused:
        self._open.pop(stream, None)
        reply = ttrpc.frame(stream, Kind.RESPONSE, 0, ttrpc.encode_response(Response(code, message)))
        return Refused(stream, reply)

    def _sending(self, stream: int) -> _ServerStream:
        if (state := self._open.get(stream)) is None:
            raise StreamOver(f"stream {stream} is over")
        return state


@dataclass(slots=True)
class _ClientStream:
    shape: Shape
    local_closed: bool = False


@dataclass(slots=True)
class _ServerStream:
    shape: Shape
    remote_closed: bool


def _too_long(frame: Skipped) -> str:
    return f"a message of {frame.length} bytes, ttrpc has at most {ttrpc.MAX_DATA_BYTES}"
