"""What can go wrong in a SPDY session: for the caller, and within this package between its parts.

What a peer does wrong never reaches a caller as an exception: it is the event SessionFailed or StreamReset.
"""

from __future__ import annotations

from crib.wire.spdy.frames import GoAwayStatus, ResetStatus


class SpdyError(ValueError):
    """The caller asked for what cannot be sent: the message says what and why. Nothing was queued."""


class StreamGone(SpdyError):
    """The stream has ended or was reset (perhaps by the peer, in this moment); nothing can be sent on it."""


class SessionOver(SpdyError):
    """The session failed, or a GOAWAY was seen: no stream can be opened, or nothing sent at all."""


class SessionFault(Exception):
    """Inside the package: the peer broke the session, which ends with a GOAWAY."""

    def __init__(self, reason: str, status: GoAwayStatus = GoAwayStatus.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.status = status


class StreamFault(Exception):
    """Inside the package: the peer broke one stream, which ends with a RST_STREAM."""

    def __init__(self, stream_id: int, reason: str, status: ResetStatus = ResetStatus.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.stream_id = stream_id
        self.status = status
