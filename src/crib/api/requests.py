"""Takes requests from their callers, a few at a time. The rest stays with the sender.

A request that came with its call is here already (see `crib.rpc`). The rest of a larger one, of up to 16 MiB,
is not sent before somebody reads it.
"""

from __future__ import annotations

import contextlib
from weakref import WeakValueDictionary

from crib.engine.admission import Admission, Claim
from crib.model.errors import InvalidRequest
from crib.rpc.call import GrpcCall
from crib.tasks.calls import current_caller
from crib.tasks.lanes import stand_back

PLACES = 4
"""Requests of one caller in transfer at once: 64 MiB if they are of maximum size."""
HOLD_LIMIT = 1.0
"""Seconds for which a request that does not arrive holds up others of its caller; most take 1 ms."""
LARGE = 1 << 20
"""Bytes from which on a request takes turns with other work."""
CALLS_LIMIT = 1024
"""Calls at once, streams included; more are answered RESOURCE_EXHAUSTED."""

_CLAIM = Claim("", False, contextlib.nullcontext)


class Requests:
    """Takes the one request of a call."""

    def __init__(self) -> None:
        self._places: WeakValueDictionary[str, Admission] = WeakValueDictionary()
        """By caller, for those that have calls now."""

    async def take(self, context: GrpcCall) -> bytes:
        """Its bytes. InvalidRequest when the caller says that none will come."""
        if (here := context.take_first()) is not None:
            return here
        caller = current_caller().agent
        places = self._places.get(caller)
        if places is None:
            places = self._places[caller] = Admission(PLACES, CALLS_LIMIT, HOLD_LIMIT)
        async with places.making(_CLAIM):
            data = await context.read()
            if data is None:
                raise InvalidRequest("the call came without a request")
            if len(data) >= LARGE:
                await stand_back()
            return data
