"""Requests are taken from their callers, a few at a time: what has not been taken stays with who sends it.

gRPC reads the request of a unary call as soon as the call is there, 16 MiB of each of a thousand. So every
call is registered as one with a stream of requests, which is the same on the wire, and asks for the only one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from crib.engine.admission import Admission, Claim
from crib.model.errors import InvalidRequest
from crib.tasks.calls import current_caller
from crib.tasks.lanes import stand_back

PLACES = 4
"""Requests of one caller that are on their way at once: 64 MiB of the largest."""
HOLD_LIMIT = 1.0
"""Seconds that a request which does not come holds up others of its caller; most take a thousandth."""
LARGE = 1 << 20
"""Bytes of a request that takes turns with other work from then on."""
CALLS_LIMIT = 1024
"""Calls at once, streams included; more are answered RESOURCE_EXHAUSTED."""

_CLAIM = Claim("", False, contextlib.nullcontext)

if TYPE_CHECKING:  # generic for type checkers only
    from grpc import aio

    Context = aio.ServicerContext[bytes, bytes]


class Requests:
    """Takes the one request of a call."""

    def __init__(self) -> None:
        self._places: WeakValueDictionary[str, Admission] = WeakValueDictionary()
        """Of callers who have calls now."""

    async def take(self, context: Context) -> bytes:
        """Its bytes. InvalidRequest when the caller says that none will come."""
        caller = current_caller().agent
        places = self._places.get(caller)
        if places is None:
            places = self._places[caller] = Admission(PLACES, CALLS_LIMIT, HOLD_LIMIT)
        async with places.making(_CLAIM):
            data = await context.read()
            if not isinstance(data, bytes):  # it is grpc's EOF
                raise InvalidRequest("the call came without a request")
            if len(data) >= LARGE:
                await stand_back()
            return data
