"""What a call may end with, the answer aside."""

from __future__ import annotations

from crib.wire.rpc_codes import Code


class TtrpcError(Exception):
    """All of these."""


class CallFailed(TtrpcError):
    """The peer's answer is an error. A handler raises it to answer with one."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        """One of gRPC's, `Code` has their names."""


class CallTimedOut(CallFailed):
    """There was no answer in time; whether the peer has done what it was asked is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.DEADLINE_EXCEEDED, message)


class PeerLost(TtrpcError, ConnectionError):
    """The connection is gone, and every call on it has failed."""
