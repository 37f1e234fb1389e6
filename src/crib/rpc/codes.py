"""What a call may end with."""

from __future__ import annotations

from crib.wire.rpc_codes import Code

__all__ = ["CallRefused", "CallerGone", "Code"]


class CallRefused(Exception):
    """A call cannot be taken up as it came."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class CallerGone(Exception):
    """Nobody waits for the answer any more."""
