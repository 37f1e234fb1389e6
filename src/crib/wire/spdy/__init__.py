"""SPDY/3.1 sans I/O, as kubectl, the API server and crictl speak it for exec, attach and port-forward."""

from crib.wire.spdy.connection import Connection
from crib.wire.spdy.errors import SessionOver, SpdyError, StreamGone
from crib.wire.spdy.events import (
    DataReceived,
    Event,
    GoAwayReceived,
    PingAcknowledged,
    PingReceived,
    SessionFailed,
    SettingsReceived,
    StreamOpened,
    StreamReplied,
    StreamReset,
    WindowUpdated,
)
from crib.wire.spdy.frames import GoAwayStatus, ResetStatus, Setting
from crib.wire.spdy.headers import Headers, first
from crib.wire.spdy.limits import Limits, Windows

__all__ = [
    "Connection",
    "DataReceived",
    "Event",
    "GoAwayReceived",
    "GoAwayStatus",
    "Headers",
    "Limits",
    "PingAcknowledged",
    "PingReceived",
    "ResetStatus",
    "SessionFailed",
    "SessionOver",
    "Setting",
    "SettingsReceived",
    "SpdyError",
    "StreamGone",
    "StreamOpened",
    "StreamReplied",
    "StreamReset",
    "WindowUpdated",
    "Windows",
    "first",
]
