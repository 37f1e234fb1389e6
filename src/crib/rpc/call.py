"""One call, from its headers to its trailers: the messages that came, and those that wait to go."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

from crib.rpc.codes import CallerGone, CallRefused, Code
from crib.wire.http2 import frames, hpack
from crib.wire.http2.frames import EndReason
from crib.wire.http2.hpack import Headers

PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length."""
TEXT_BYTES = 6 << 10
"""Most of a status text: clients take 8 KiB of headers."""
_HEAD = b"\x88" + hpack.literal("content-type", "application/grpc")
"""Of each answer: status 200, which is entry 8 of every table."""
_OK = hpack.literal("grpc-status", "0")
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""What a status text may have as it is; everything else is percent-encoded."""


class Wire(Protocol):
    """What a call needs of its connection."""

    limit: int
    """Bytes of one message that comes."""
    first_window: int
    """Bytes that the client lets us send at first, in each call."""

    def send(self, data: bytes) -> None:
        """Frames that no window holds back."""
        ...

    def fits(self, size: int) -> bool:
        """Whether so much of a message would go now, in one frame."""
        ...

    def spend(self, size: int) -> None:
        """So much of the connection's window is used up."""
        ...

    def queue(self, call: GrpcCall) -> None:
        """It has something to send, as soon as the windows allow it."""
        ...

    def closed(self, call: GrpcCall) -> None:
        """Nothing more is sent for it."""
        ...


class GrpcCall:
    """What a handler sees of it: `metadata`, `read`, `write`, `send_head`, `set_status`."""

    __slots__ = (
        *("_code", "_drained", "_first", "_has_ended", "_has_head", "_inbox", "_is_done", "_outbox"),
        *("_reader", "_text", "_window_in", "_wire", "credit", "has_begun", "is_gone", "metadata", "path"),
        *("stream", "task", "timer"),
    )

    def __init__(self, wire: Wire, stream: int, headers: Headers) -> None:
        self.stream = stream
        self.path = next((value for name, value in headers if name == ":path"), "")
        self.metadata = headers
        """All headers of the call, those of HTTP/2 and gRPC too."""
        self.credit = 0
        """Bytes that the client allowed beyond the first window, less those that went."""
        self.has_begun = False
        """Whether it was handed on, or refused."""
        self.task: asyncio.Task[None] | None = None
        """Its handler's; None before that begins, and if there is none."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends it when its caller's time is over."""
        self.is_gone = False
        """Whether the client gave it up."""
        self._wire = wire
        self._inbox = bytearray()
        self._first: bytes | None = None
        self._window_in = frames.WINDOW
        self._has_ended = self._has_head = self._is_done = False
        """The client sends no more; the head of the answer has gone; the answer is whole."""
        self._outbox: deque[memoryview] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._code, self._text = Code.OK, ""

    @property
    def timeout(self) -> str:
        """How long its caller waits, as gRPC writes it; empty if it did not say."""
        return next((value for name, value in self.metadata if name == "grpc-timeout"), "")

    @property
    def window(self) -> int:
        """Bytes that may go now; below 0 when a client has made its first window smaller meanwhile."""
        return self._wire.first_window + self.credit

    # what comes

    def received(self, data: bytes, *, counted: int, ended: bool) -> None:
        """Content of a frame, which took `counted` bytes of the window. Raises Http2Error."""
        if self._has_ended:
            raise frames.Http2Error(EndReason.STREAM_CLOSED, f"stream {self.stream}: more after its end")
        self._window_in -= counted
        if self._window_in < 0:
            raise frames.Http2Error(EndReason.FLOW_CONTROL_ERROR, f"stream {self.stream}: beyond its window")
        self._inbox += data
        self._has_ended = ended
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def is_ready(self) -> bool:
        """Whether its handler can begin: the request is here, too large to come by itself, or missing."""
        if self._first is None:
            self._first = self._next()
        return self._first is not None or self._has_ended or self._missing() > self._window_in

    def take_first(self) -> bytes | None:
        """The request, if all of it is here."""
        message, self._first = self._first, None
        return message

    async def read(self) -> bytes | None:
        """The next message; None if no more come. Raises CallRefused for one that is not taken."""
        if (message := self.take_first()) is not None:
            return message
        while (message := self._next()) is None:
            if self._has_ended:
                return None
            wanted = max(self._missing(), frames.WINDOW - len(self._inbox)) - self._window_in
            if wanted > 0:
                self._window_in += wanted
                more = wanted.to_bytes(4, "big")
                self._wire.send(frames.frame(frames.WINDOW_UPDATE, 0, self.stream, more))
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return message

    def _next(self) -> bytes | None:
        inbox = self._inbox
        if len(inbox) < PREFIX_BYTES:
            return None
        if inbox[0]:
            raise CallRefused(Code.UNIMPLEMENTED, "a compressed message, which crib does not take")
        size = int.from_bytes(inbox[1:PREFIX_BYTES], "big")
        if size > self._wire.limit:
            text = f"a message of {size} bytes is larger than the {self._wire.limit} that crib takes"
            raise CallRefused(Code.RESOURCE_EXHAUSTED, text)
        end = PREFIX_BYTES + size
        if len(inbox) < end:
            return None
        message = bytes(memoryview(inbox)[PREFIX_BYTES:end])
        del inbox[:end]
        return message

    def _missing(self) -> int:
        """Bytes of the message that comes now, as far as known."""
        if len(self._inbox) < PREFIX_BYTES:
            return PREFIX_BYTES - len(self._inbox)
        return PREFIX_BYTES + int.from_bytes(self._inbox[1:PREFIX_BYTES], "big") - len(self._inbox)

    # what goes

    def set_status(self, code: Code, text: str) -> None:
        """What it ends with, instead of OK."""
        self._code, self._text = code, text

    async def send_head(self) -> None:
        """Tell the client that its call was taken up. Whoever left before this is known as gone after it."""
        self._check()
        if not self._has_head:
            self._has_head = True
            self._wire.send(frames.frame(frames.HEADERS, frames.END_HEADERS, self.stream, _HEAD))
            await asyncio.sleep(0)  # a connection that took no more is lost by then, and this task cancelled

    async def write(self, message: bytes) -> None:
        """Send one of several messages; goes on when it has gone. Raises CallerGone."""
        self._check()
        self._put(message)
        while self._outbox:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await self._drained
            self._check()

    def refuse(self, code: Code, text: str) -> None:
        """End it without a handler."""
        self.has_begun = True
        self.set_status(code, text)
        self.finish(None)

    def finish(self, message: bytes | None) -> None:
        """The handler is done: the only message, or None, and what the call ends with."""
        if self._is_done or self.is_gone:
            return
        self._is_done = True
        is_good = self._code is Code.OK
        if message is None or not is_good:
            if not self._outbox:
                self._close(b"")
            return
        size = PREFIX_BYTES + len(message)
        if not self._outbox and size <= self.window and self._wire.fits(size):
            self.credit -= size
            self._wire.spend(size)
            data = frames.head(frames.DATA, 0, self.stream, size)
            self._close(b"".join((data, b"\x00", len(message).to_bytes(4, "big"), message)))
        else:
            self._put(message)

    def _put(self, message: bytes) -> None:
        prefix = b"\x00" + len(message).to_bytes(4, "big")
        self._outbox += (memoryview(prefix), memoryview(message)) if message else (memoryview(prefix),)
        self._wire.queue(self)

    def chunk(self, limit: int) -> list[bytes | memoryview]:
        """One frame of what waits, with at most so many bytes of content; with the head before it.

        To be asked while something waits.
        """
        limit = min(limit, self.window)
        content: list[bytes | memoryview] = []
        size = 0
        while self._outbox and size < limit:
            piece = self._outbox[0]
            part = piece[: limit - size]
            if len(part) == len(piece):
                self._outbox.popleft()
            else:
                self._outbox[0] = piece[len(part) :]
            content.append(part)
            size += len(part)
        self.credit -= size
        self._wire.spend(size)
        return [self._take_head(), frames.head(frames.DATA, 0, self.stream, size), *content]

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self._outbox)

    def sent(self) -> None:
        """The last frame of what waited has gone."""
        if self._is_done:
            self._close(b"")
        elif self._drained is not None:
            drained, self._drained = self._drained, None
            if not drained.done():
                drained.set_result(None)

    def _take_head(self) -> bytes:
        if self._has_head:
            return b""
        self._has_head = True
        return frames.frame(frames.HEADERS, frames.END_HEADERS, self.stream, _HEAD)

    def _close(self, data: bytes) -> None:
        """Send `data`, whose window is paid for, and the trailers."""
        if self.timer is not None:
            self.timer.cancel()
        ended = frames.END_HEADERS | frames.END_STREAM
        if self._has_head or data:
            trailers = frames.frame(frames.HEADERS, ended, self.stream, self._trailers())
            out = b"".join((self._take_head(), data, trailers))
        else:
            out = frames.frame(frames.HEADERS, ended, self.stream, _HEAD + self._trailers())
        if not self._has_ended:  # the client may keep what it has not sent yet
            fault = EndReason.NO_ERROR.to_bytes(4, "big")
            out += frames.frame(frames.RST_STREAM, 0, self.stream, fault)
        self._wire.send(out)
        self._wire.closed(self)

    def _trailers(self) -> bytes:
        if self._code is Code.OK:
            return _OK
        status = hpack.literal("grpc-status", str(int(self._code)))
        return status + hpack.literal("grpc-message", _encoded(self._text))

    # its end

    def abandon(self) -> None:
        """The client gave it up, or is gone."""
        self.is_gone = True
        self._outbox.clear()
        self._inbox.clear()
        if self.timer is not None:
            self.timer.cancel()
        for waiting in (self._reader, self._drained):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        self._has_ended = True
        if self.task is not None:
            self.task.cancel()
        self._wire.closed(self)

    def expire(self) -> None:
        """Its caller's time is over: it says so, as its caller may look at its own clock a little later."""
        self._outbox.clear()
        self.set_status(Code.DEADLINE_EXCEEDED, "the time that its caller gave it is over")
        self._close(b"")
        self.abandon()

    def release(self, ended: Callable[[], None]) -> None:
        """Nothing more is sent: it has `ended` as soon as its handler has."""
        if self.task is None or self.task.done():
            ended()
        else:
            self.task.add_done_callback(lambda _: ended())

    def _check(self) -> None:
        if self.is_gone:
            raise CallerGone(f"{self.path}: the caller has gone")


def _encoded(text: str) -> str:
    """A status text as it goes; without its end if it is too long."""
    while len(encoded := quote(text, safe=_PRINTABLE, errors="replace")) > TEXT_BYTES:
        text = text[: len(text) * TEXT_BYTES // len(encoded)]
    return encoded
