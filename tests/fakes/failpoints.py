"""Faults on order: a line such as `attach=1*error(no address)`, and waits on order.

    NAME=[N*]KIND(TEXT)     the next N calls (all, without N) that reach NAME fail
    KIND                    error (Broken), unavailable, notfound, timedout, exhausted, bug (a RuntimeError)

`hold(NAME)` stops the next call that reaches NAME until it is released. Both may be bound to one subject.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field

from crib.model.errors import Broken, CribError, Exhausted, NotFound, TimedOut, Unavailable

KINDS: dict[str, type[Exception]] = {
    "error": Broken,
    "unavailable": Unavailable,
    "notfound": NotFound,
    "timedout": TimedOut,
    "exhausted": Exhausted,
    "bug": RuntimeError,
}
_LINE = re.compile(r"(?P<name>\w+)=(?:(?P<count>\d+)\*)?(?P<kind>\w+)\((?P<text>.*)\)")


@dataclass
class _Fault:
    name: str
    left: int | None
    kind: type[Exception]
    text: str
    subject: str


@dataclass
class Hold:
    """One call that waits. Await `reached`, then set `release`."""

    name: str
    subject: str = ""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)


class Failpoints:
    """What is ordered for one fake, and how often each name was reached."""

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._holds: list[Hold] = []
        self.calls: list[tuple[str, str]] = []
        """Each call in order: name and subject."""

    def set(self, line: str, *, subject: str = "") -> None:
        """Order a fault; ValueError for a line that is none."""
        match = _LINE.fullmatch(line)
        if match is None or match["kind"] not in KINDS:
            raise ValueError(f"not a failpoint line: {line!r}")
        count = int(match["count"]) if match["count"] else None
        self._faults.append(_Fault(match["name"], count, KINDS[match["kind"]], match["text"], subject))

    def clear(self) -> None:
        """Order nothing any more."""
        self._faults.clear()

    def hold(self, name: str, *, subject: str = "") -> Hold:
        """Stop the next call of that name (and subject) until it is released."""
        hold = Hold(name, subject)
        self._holds.append(hold)
        return hold

    def count(self, name: str) -> int:
        """How often a name was reached."""
        return Counter(called for called, _ in self.calls)[name]

    def names(self) -> list[str]:
        """The names reached, in order."""
        return [called for called, _ in self.calls]

    async def reach(self, name: str, subject: str = "") -> None:
        """Called by the fake: waits if that was ordered, then fails if that was ordered."""
        self.calls.append((name, subject))
        for hold in self._holds:
            if hold.name == name and hold.subject in ("", subject):
                self._holds.remove(hold)
                hold.reached.set()
                await hold.release.wait()
                break
        self._fail(name, subject)

    def reach_nowait(self, name: str, subject: str = "") -> None:
        """As `reach`, for ports that do not wait."""
        self.calls.append((name, subject))
        self._fail(name, subject)

    def _fail(self, name: str, subject: str) -> None:
        for fault in self._faults:
            if fault.name != name or fault.subject not in ("", subject):
                continue
            if fault.left is not None:
                fault.left -= 1
                if fault.left <= 0:
                    self._faults.remove(fault)
            error = fault.kind(fault.text)
            assert isinstance(error, (CribError, RuntimeError))
            raise error
