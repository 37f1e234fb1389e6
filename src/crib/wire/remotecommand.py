"""What exec and attach say to their clients, over SPDY streams or over channels of a WebSocket.

Source: k8s.io/cri-streaming (remotecommand) and client-go (tools/remotecommand). The client opens a stream of
each wanted type, with the header `streamType`; terminal sizes come as JSON on `resize`, the outcome goes out
on `error` before it ends. Over SPDY the version is agreed in the HTTP header X-Stream-Protocol-Version:

    channel.k8s.io      words on the error stream
    v2.channel.k8s.io   the same; stdin is not closed from the start
    v3.channel.k8s.io   adds resize
    v4.channel.k8s.io   an object on the error stream, with the exit code
    v5.channel.k8s.io   adds closing a channel; WebSocket only
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

import msgspec

from crib.wire import channel_messages
from crib.wire.spdy.headers import Headers, first

PROTOCOL_HEADER = "X-Stream-Protocol-Version"
"""Of the request, with all that the client knows, and of the answer, with the chosen one."""
ACCEPTED_HEADER = "X-Accepted-Stream-Protocol-Versions"
"""Of the answer 403 when nothing fits: what the server knows."""
SPDY_UPGRADE = "SPDY/3.1"
"""In the header Upgrade of request and answer."""
STREAM_TYPE = "streamType"
CREATION_SECONDS = 30.0
"""How long servers wait for all streams to be opened, and clients for the reply to each."""
MAX_STATUS = 64 << 10
"""Bytes of an outcome that are read."""
MAX_TEXT = 4 << 10
"""Characters of a failure's words that are written, twice; one takes up to six bytes."""
MAX_RESIZE = 1 << 10
"""Bytes of one terminal size; clients write some 30."""
NEWEST_SIZES = 2
"""Of those that come together: kubectl attach sends one that is too large and then the right one, so that
what runs in the terminal draws its screen anew."""
_NON_ZERO_EXIT = "NonZeroExitCode"
_EXIT_CODE = "ExitCode"

WEBSOCKET_PROTOCOLS = (
    channel_messages.UNNAMED,
    channel_messages.CHANNEL,
    channel_messages.BASE64,
    channel_messages.V4,
    channel_messages.V4_BASE64,
    channel_messages.V5,
)


class MalformedRequest(ValueError):
    """The client asked for something that there is not; the message says what."""


class StreamType(StrEnum):
    """Values of the header `streamType`."""

    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"
    ERROR = "error"
    RESIZE = "resize"


CHANNELS = (StreamType.STDIN, StreamType.STDOUT, StreamType.STDERR, StreamType.ERROR, StreamType.RESIZE)
"""What each channel of a WebSocket carries, by its number."""


@dataclass(frozen=True, slots=True)
class SpdyProtocol:
    """A version over SPDY."""

    name: str
    has_resize: bool = False
    has_status: bool = False


SPDY_PROTOCOLS = (
    SpdyProtocol("v4.channel.k8s.io", has_resize=True, has_status=True),
    SpdyProtocol("v3.channel.k8s.io", has_resize=True),
    SpdyProtocol("v2.channel.k8s.io"),
    SpdyProtocol("channel.k8s.io"),
)
"""What a server knows, best first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The streams that a request asks for."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    """stdout and stderr are one: nothing comes on stderr, whether it was asked for or not."""

    def streams(self, *, resize: bool) -> frozenset[StreamType]:
        """What the client opens; `resize` when the protocol's version has it (always in a WebSocket)."""
        wanted = {
            StreamType.ERROR: True,
            StreamType.STDIN: self.stdin,
            StreamType.STDOUT: self.stdout,
            StreamType.STDERR: self.stderr and not self.tty,
            StreamType.RESIZE: self.tty and resize,
        }
        return frozenset(kind for kind, is_wanted in wanted.items() if is_wanted)

    def greeting_channel(self) -> int:
        """The channel that an empty message goes to when a WebSocket is ready, for clients that wait for
        it."""
        kinds = self.streams(resize=False)
        return next(number for number, kind in enumerate(CHANNELS[1:], 1) if kind in kinds)


@dataclass(frozen=True, slots=True)
class Exited:
    """The command ended on its own."""

    code: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The command could not be run, or its end is not known."""

    message: str


Outcome = Exited | Failed


class _Cause(msgspec.Struct, frozen=True, omit_defaults=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True, omit_defaults=True):
    causes: tuple[_Cause, ...] = ()


class _Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of metav1.Status that is used here."""

    status: str = ""
    message: str = ""
    reason: str = ""
    details: _Details | None = None
    code: int = 0


class SizeMessage(msgspec.Struct, frozen=True):
    """Columns and rows."""

    width: int
    height: int


def choose_spdy(values: Sequence[str]) -> SpdyProtocol | None:
    """The client's first that is known, from the values of PROTOCOL_HEADER; None when there is none."""
    known = {protocol.name: protocol for protocol in SPDY_PROTOCOLS}
    return next((known[name] for name in channel_messages.split_names(values) if name in known), None)


def stream_headers(kind: StreamType) -> Headers:
    """What a client opens a stream with."""
    return ((STREAM_TYPE, kind),)


def stream_type(headers: Headers) -> StreamType:
    """What a stream is for; MalformedRequest."""
    text = first(headers, STREAM_TYPE) or ""
    try:
        return StreamType(text)
    except ValueError:
        raise MalformedRequest(f"there are no streams of type {text[:100]!r}") from None


def encode_outcome(outcome: Outcome, *, has_status: bool) -> bytes:
    """What goes out on the error stream before it ends; nothing when all went well and there are only
    words."""
    match outcome:
        case Exited(0):
            status = _Status("Success")
        case Exited(code):
            cause = _Cause(_EXIT_CODE, str(code))
            words = f"the command ended with exit code {code}"
            status = _Status("Failure", words, _NON_ZERO_EXIT, _Details((cause,)))
        case Failed(message):
            words = message[:MAX_TEXT]
            # Kubernetes' NewInternalError has a cause always, and clients count on it.
            details = _Details((_Cause(message=words),))
            status = _Status("Failure", words, "InternalError", details, code=500)
    return msgspec.json.encode(status) if has_status else status.message.encode("utf-8", "replace")


def decode_outcome(data: bytes, *, has_status: bool) -> Outcome:
    """What an error stream brought until its end; an outcome that cannot be read is Failed."""
    if not data:
        return Exited(0)
    if not has_status:
        return Failed(data[:MAX_STATUS].decode("utf-8", "replace"))
    if len(data) > MAX_STATUS:
        return Failed(f"outcome of {len(data)} bytes, at most {MAX_STATUS} are read")
    try:
        status = msgspec.json.decode(data, type=_Status)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Failed(f"outcome {data[:200]!r} is not understood: {error}")
    if status.status == "Success":
        return Exited(0)
    if status.reason != _NON_ZERO_EXIT:
        return Failed(status.message or f"outcome {data[:200]!r} is not understood")
    causes = status.details.causes if status.details else ()
    code = next((cause.message for cause in causes if cause.reason == _EXIT_CODE), "")
    if not (code.isascii() and code.isdecimal() and len(code) <= 3 and int(code) <= 255):
        return Failed(f"exit code {code[:100]!r} is not understood")
    return Exited(int(code))


def encode_resize(size: SizeMessage) -> bytes:
    """One terminal size, as a line."""
    return msgspec.json.encode({"Width": size.width, "Height": size.height}) + b"\n"


class ResizeDecoder:
    """Bytes of a resize stream to terminal sizes, wherever they are cut."""

    def __init__(self) -> None:
        self._held = b""

    def receive(self, data: bytes) -> list[SizeMessage]:
        """The newest of the sizes that `data` completes. What is none is left out."""
        *whole, self._held = (self._held + data).split(b"}")
        if len(self._held) > MAX_RESIZE:
            self._held = b""
        return [size for text in whole[-NEWEST_SIZES:] if (size := _terminal_size(text + b"}"))]


def _terminal_size(text: bytes) -> SizeMessage | None:
    """Names are taken in any case, as Go does, and one that is missing is 0."""
    if len(text) > MAX_RESIZE:
        return None
    try:
        fields = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    numbers = {name.lower(): value for name, value in fields.items()}
    width, height = numbers.get("width", 0), numbers.get("height", 0)
    if not (_is_length(width) and _is_length(height)):
        return None
    return SizeMessage(width, height)


def _is_length(number: object) -> TypeGuard[int]:
    """A number of columns or rows, as the kernel has them (struct winsize)."""
    return type(number) is int and 0 <= number <= 0xFFFF
