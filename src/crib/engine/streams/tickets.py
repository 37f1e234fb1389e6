"""One-use tokens for the URLs of streams: what was checked when the URL was given is what its user gets."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from crib.model.errors import Exhausted
from crib.model.streams import StreamRequest
from crib.ports.clocks import Clock

WAITING = 1000
"""Tokens that nobody has used yet, at most."""
_TOKEN_BYTES = 24
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Ticket:
    request: StreamRequest
    ends: int


class Tickets:
    """Tokens that wait to be used; each goes at its first use or after `lifetime` seconds."""

    def __init__(self, clock: Clock, lifetime: Callable[[], float]) -> None:
        self._clock = clock
        self._lifetime = lifetime
        self._waiting: dict[str, _Ticket] = {}

    def issue(self, request: StreamRequest) -> str:
        """A token for the request. Exhausted when too many wait to be used."""
        now = self._clock()
        # In the order of their issue, so the oldest come first; a clock that was set back only delays.
        for token, ticket in list(self._waiting.items()):
            if ticket.ends > now:
                break
            del self._waiting[token]
        if len(self._waiting) >= WAITING:
            raise Exhausted(f"{WAITING} streams were asked for and not opened yet: try again later")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._waiting[token] = _Ticket(request, now + int(self._lifetime() * _NANOSECONDS))
        return token

    def redeem(self, token: str) -> StreamRequest | None:
        """The request of the token, which is used up by this; None for one that is not (or no more) known."""
        ticket = self._waiting.pop(token, None)
        return ticket.request if ticket is not None and ticket.ends > self._clock() else None
