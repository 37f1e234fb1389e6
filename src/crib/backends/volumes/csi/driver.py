"""One driver: what it is asked, how long it is asked again, and what its answers mean.

The rules are those of the interface's error scheme. ABORTED means that the driver is still at an earlier call
for the same volume; UNAVAILABLE, DEADLINE_EXCEEDED and CANCELLED leave open what it has done. So the call is
made again, later and later, until the errand's time is over. Any other status is final. What was left open is
for the verbs to settle: they make the call again, or the one that undoes it.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TypeVar

from google.protobuf.message import Message

from crib.backends.volumes.csi import channel
from crib.backends.volumes.csi.channel import BAD_ANSWER, DriverCall, DriverFailed
from crib.backends.volumes.csi.driver_facts import DriverFacts, read_facts
from crib.backends.volumes.csi.errands import Errand
from crib.model.driver_status import DriverFigures
from crib.model.errors import (
    AlreadyExists,
    Broken,
    CribError,
    Exhausted,
    InvalidRequest,
    NotBuilt,
    NotFound,
    Unavailable,
    WrongState,
)
from crib.model.volume_settings import VolumeDriver, default_socket

A = TypeVar("A", bound=Message)
_log = logging.getLogger(__name__)

OPEN = frozenset({"ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
"""Codes after which the call is made again."""
ABSENT_SECONDS = 5.0
"""How long a driver that cannot be reached is tried: one that is restarted is back by then."""
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
"""Seconds before a call is made again; each pause is twice the one before."""
LEAST_SECONDS = 0.01
"""With less time left, no call is begun."""
FACTS_SECONDS = 60.0
"""How long it counts what a driver said that it can: it may be another version after a restart."""
LOOK_SECONDS = 10.0
"""For a look at who the driver is and what it can, all calls together."""

_KINDS: dict[str, type[CribError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "PERMISSION_DENIED": InvalidRequest,
    "UNAUTHENTICATED": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": WrongState,
    "RESOURCE_EXHAUSTED": Exhausted,
    "UNIMPLEMENTED": NotBuilt,
    **dict.fromkeys(OPEN, Unavailable),
}
_FIELDS = {"OUT_OF_RANGE": "capacity", "PERMISSION_DENIED": "secrets", "UNAUTHENTICATED": "secrets"}


class Driver:
    """A driver of the settings."""

    def __init__(self, name: str, settings: VolumeDriver, figures: DriverFigures) -> None:
        self.name = name
        self.settings = settings
        self.socket = settings.socket or default_socket(name)
        self._figures = figures
        self._facts: DriverFacts | None = None
        self._looked = 0.0

    async def facts(self, errand: Errand) -> DriverFacts:
        """What it can; asked again after FACTS_SECONDS, and after it was away. CribError."""
        if self._facts is None or monotonic() - self._looked > FACTS_SECONDS:
            return await self.look(errand)
        return self._facts

    async def look(self, errand: Errand) -> DriverFacts:
        """The same, asked now: also whether it is the driver that it should be, and ready."""
        until = min(errand.until, asyncio.get_running_loop().time() + LOOK_SECONDS)
        short = Errand(errand.about, min(errand.seconds, LOOK_SECONDS), until)
        found = await read_facts(self.name, self.ask, short)
        self._facts, self._looked = found, monotonic()
        return found

    async def ask(self, one: DriverCall[A], request: Message, errand: Errand) -> A:
        """What it answers. CribError."""
        try:
            return await self.answer(one, request, errand)
        except DriverFailed as failure:
            raise self.error(one, failure, errand) from None  # the cause may have a secret in it

    async def answer(self, one: DriverCall[A], request: Message, errand: Errand) -> A:
        """The same, for callers that know what a status means here. DriverFailed."""
        began = monotonic()
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._once(one, request, errand)
            except DriverFailed as failure:
                if failure.code == "UNAVAILABLE":
                    self._facts = None
                away = failure.code == "UNAVAILABLE" and monotonic() - began > ABSENT_SECONDS
                if failure.code not in OPEN or away or errand.left - pause < LEAST_SECONDS:
                    raise
                _log.debug(
                    "driver %s: %s is made again in %g s: %s", self.name, one.name, pause, failure.code
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _once(self, one: DriverCall[A], request: Message, errand: Errand) -> A:
        if errand.left < LEAST_SECONDS:
            raise DriverFailed("DEADLINE_EXCEEDED", "")
        code = "CANCELLED"
        with self._figures.calls.timed(self.name, one.name):
            try:
                limit = min(errand.left, errand.seconds)
                answer = await channel.call(self.socket, one, request, limit)
                code = "OK"
                return answer
            except DriverFailed as failure:
                code = failure.code
                raise
            finally:
                self._figures.answers.add((self.name, one.name, code))

    def error(self, one: DriverCall[A], failure: DriverFailed, errand: Errand) -> CribError:
        """One of ours, which names the driver, the call and what it was about."""
        what = f"driver {self.name}: {one.name}"
        if errand.about:
            what = f"{what} of {errand.about}"
        if failure.code == "DEADLINE_EXCEEDED":
            text = f"{what}: no answer within {errand.seconds:g} s"
        elif failure.code == BAD_ANSWER:
            text = f"{what}: {errand.hiding(failure.text)}"
        else:
            text = f"{what}: {errand.hiding(failure.text)} ({failure.code})"
        kind = _KINDS.get(failure.code, Broken)
        return kind(text, field=_FIELDS.get(failure.code, ""))

    def bad(self, one: DriverCall[A], problem: str, errand: Errand) -> CribError:
        """For an answer that says what it must not."""
        return self.error(one, DriverFailed(BAD_ANSWER, problem), errand)
