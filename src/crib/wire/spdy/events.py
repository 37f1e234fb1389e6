"""The events of `Connection.receive`. `fin` says that the peer sends no more on that stream (half closed)."""

from __future__ import annotations

import msgspec

from crib.wire.spdy.headers import Headers


class Event(msgspec.Struct, frozen=True):
    """Something that the peer did."""


class StreamOpened(Event, frozen=True):
    """The peer opened a stream. It is answered with `reply` or `reset`; nothing can be sent on it before."""

    stream_id: int
    headers: Headers
    fin: bool


class StreamReplied(Event, frozen=True):
    """The peer accepted a stream of ours."""

    stream_id: int
    headers: Headers
    fin: bool


class DataReceived(Event, frozen=True):
    """A part of a stream, not always a whole frame. `data` may be empty when `fin` is set.

    Every byte is given back with `acknowledge` when the application is done with it.
    """

    stream_id: int
    data: bytes
    fin: bool


class StreamReset(Event, frozen=True):
    """The stream has ended in both directions, and what was not acknowledged counts as thrown away.

    `reason` is empty when the peer reset it, and else says what the peer did wrong on it.
    """

    stream_id: int
    status: int
    reason: str = ""


class WindowUpdated(Event, frozen=True):
    """`Connection.window` of a stream may have grown; of all streams when `stream_id` is 0."""

    stream_id: int


class SettingsReceived(Event, frozen=True):
    """Limits of the peer, by their ids. Windows of all streams may have changed."""

    settings: dict[int, int]


class PingReceived(Event, frozen=True):
    """The peer asked whether we live; the answer is queued."""

    ping_id: int


class PingAcknowledged(Event, frozen=True):
    """The peer answered a ping of ours."""

    ping_id: int


class GoAwayReceived(Event, frozen=True):
    """The peer accepts no new streams, and none of ours after `last_stream_id`. Others may continue, but most
    peers send nothing more."""

    last_stream_id: int
    status: int


class SessionFailed(Event, frozen=True):
    """The last event: the peer broke the protocol or a limit. A GOAWAY is queued; then the socket is
    closed."""

    status: int
    reason: str
