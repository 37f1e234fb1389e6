"""The call that the current task works for: it is handed on to tasks and threads, which may outlast it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from crib.model.caller import Caller, CallObject, Peer
from crib.tasks.spans import OpenSpan

NOTHING = CallObject()


@dataclass(slots=True, eq=False)
class CallUnderWay:
    """One call, from the moment when it is taken up."""

    request: str
    """Its id in the log."""
    verb: str
    """The method's name, as `StopContainer`."""
    agent: str = ""
    """What the client calls itself."""
    trace: str = ""
    """Id of the trace that the client counts it to (W3C trace context); empty where it said none."""
    object: CallObject = NOTHING
    """What it is about; known for calls that change something."""
    peers: tuple[Peer, ...] = ()
    """See `Caller.peers`."""
    ends: float = 0.0
    """When its client's deadline is, on the monotonic clock; 0 where it has none."""
    began: int = field(default_factory=time.monotonic_ns)
    """On the monotonic clock."""
    code: str = "CANCELLED"
    """Name of the status that it was answered with; CANCELLED as long as it was not, or if nobody waited."""
    error: str = ""
    span: OpenSpan | None = None
    """None where nobody traces it."""

    @property
    def milliseconds(self) -> float:
        """Since it began."""
        return (time.monotonic_ns() - self.began) / 1e6

    @property
    def caller(self) -> Caller:
        return Caller(self.agent, self.request, self.peers)


_CURRENT: ContextVar[CallUnderWay | None] = ContextVar("crib_call", default=None)


def start_call(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The task of a call that has come; whoever took the call up holds and ends it."""
    return asyncio.get_running_loop().create_task(work, name=name)


def enter(call: CallUnderWay) -> None:
    """From here on the current task works for that call, and so do the tasks that it starts."""
    _CURRENT.set(call)


def current_call() -> CallUnderWay | None:
    """None outside of calls."""
    return _CURRENT.get()


def current_caller() -> Caller:
    """Who asked for what the current task does; an empty one outside of calls."""
    call = _CURRENT.get()
    return Caller() if call is None else call.caller


def deadline() -> float:
    """Of the call's client, on the monotonic clock; 0 where there is none."""
    call = _CURRENT.get()
    return 0.0 if call is None else call.ends


def request_id() -> str:
    """Of the call; empty outside of calls."""
    call = _CURRENT.get()
    return "" if call is None else call.request
