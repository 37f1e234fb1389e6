"""An event loop with two lanes: what answers callers runs between any two steps of verbs.

asyncio runs everything that is ready, in order, and only then looks for news. With many verbs under way each
such round takes long, and a call needs several of them before anything looks at it: gRPC takes up one call in
two rounds, so callers wait for one another. Here steps of verbs have their own lane. They run when a round
has brought nothing for anybody else, or after PATIENCE, for one SLICE.

gRPC's own thread brings a call some tenths of a millisecond after the one before. A step in between holds the
interpreter, and the thread waits for it. So while many calls come one after another the loop rests for a LULL
before it takes a step, and takes none if a call comes meanwhile. It rests RESTS times a second at most: a
burst is over by then, and a stream of calls without an end does not hold up verbs.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import selectors
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, TypeVarTuple, Unpack

SLICE = 0.001
"""Seconds after which no further step of a verb begins in one round."""
PATIENCE = 0.005
"""Seconds that verbs stand back for others at most."""
LULL = 0.001
"""Seconds of rest before a step, while many calls come. epoll_wait(2) counts in these."""
RESTS = 200
"""In a second at most. With 100 the calls of 200 callers who begin at once took up to twice as long."""
CROWD, CROWD_SECONDS = 4, 0.01
"""So many calls within so many seconds are many. Ten callers with lives of pods come to half of that."""

_IS_VERB: ContextVar[bool] = ContextVar("crib_is_verb", default=False)

Ts = TypeVarTuple("Ts")


def verb_context() -> Context:
    """A copy of the current context for a task whose steps go in the verbs' lane, and of its tasks too."""
    context = contextvars.copy_context()
    context.run(_IS_VERB.set, True)
    return context


def note_call() -> None:
    """A call has been taken up."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, TwoLanes):
        loop.note_call()


async def stand_back() -> None:
    """From here on the current task goes in the verbs' lane, and so do its own tasks: it has much to do."""
    _IS_VERB.set(True)
    await asyncio.sleep(0)


class TwoLanes(asyncio.SelectorEventLoop):
    """The loop of the daemon."""

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        super().__init__(selector)
        self._steps: deque[tuple[asyncio.Handle, Callable[..., object], tuple[Any, ...], Context]] = deque()
        self._others = self._others_seen = 0
        """Callbacks that were not steps of verbs, until now and until the last round."""
        self._go_on_at = 0.0
        self._is_served = False
        self._calls: deque[float] = deque([-math.inf] * CROWD, CROWD)
        """When the latest were taken up."""
        self._has_rested = False
        self._rests, self._rests_since = 0, 0.0

    def note_call(self) -> None:
        """A call has been taken up; more may follow."""
        self._calls.append(time.monotonic())

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if context is None or not context.get(_IS_VERB, False):
            self._others += 1
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._steps.append((handle, callback, args, context))
        if not self._is_served:
            self._serve()
        return handle

    def _serve(self) -> None:
        """Look at the lane in the next round."""
        self._is_served = True
        super().call_soon(self._go_on, context=_NO_VERB)

    def _go_on(self) -> None:
        """Once a round while there are steps of verbs."""
        now = time.monotonic()
        is_quiet, self._others_seen = self._others == self._others_seen, self._others
        has_rested, self._has_rested = self._has_rested, False
        self._is_served = False
        try:
            if now >= self._go_on_at or (is_quiet and (has_rested or not self._is_crowded(now))):
                self._run_steps(now + SLICE)
                self._go_on_at = time.monotonic() + PATIENCE
            elif is_quiet:
                self._has_rested = self._is_served = True
                self._rests += 1
                self.call_later(LULL, self._go_on, context=_NO_VERB)
        finally:
            self._others_seen = self._others
            if self._steps and not self._is_served:
                self._serve()

    def _is_crowded(self, now: float) -> bool:
        """Whether another rest is due."""
        if now - self._rests_since > 1:
            self._rests, self._rests_since = 0, now
        return now - self._calls[0] < CROWD_SECONDS and self._rests < RESTS

    def _run_steps(self, until: float) -> None:
        while self._steps:
            handle, callback, args, context = self._steps.popleft()
            if not handle.cancelled():
                self._step(callback, args, context)
            if time.monotonic() >= until:
                break

    def _step(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        try:
            context.run(callback, *args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # as asyncio does it
            self.call_exception_handler(
                {"message": f"exception in callback {callback!r}", "exception": error}
            )


_NO_VERB = Context()
