"""An event loop with two lanes: what answers callers goes on between any two steps of verbs.

asyncio runs all that is ready in its order, and looks for news only then. With many verbs under way each such
round takes long, and a call needs several of them before it is even looked at: gRPC takes up one call in two
rounds, so that callers wait for one another. Here steps of verbs have a lane of their own. They go on when a
round has brought nothing for anybody else, or after PATIENCE, for one SLICE.
"""

from __future__ import annotations

import asyncio
import contextvars
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

_IS_VERB: ContextVar[bool] = ContextVar("crib_is_verb", default=False)

Ts = TypeVarTuple("Ts")


def verb_context() -> Context:
    """A copy of the current context for a task whose steps go in the verbs' lane, and of its tasks too."""
    context = contextvars.copy_context()
    context.run(_IS_VERB.set, True)
    return context


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
        self._is_served = False
        now = time.monotonic()
        try:
            if self._others == self._others_seen or now >= self._go_on_at:
                self._run_steps(now + SLICE)
                self._go_on_at = time.monotonic() + PATIENCE
        finally:
            self._others_seen = self._others
            if self._steps and not self._is_served:
                self._serve()

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
