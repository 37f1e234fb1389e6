"""Spans: calls and their stages, as parts of the trace that a caller counts them to.

The context of a trace is W3C's (https://www.w3.org/TR/trace-context/); what a span has is OpenTelemetry's.
A span follows its call into the tasks of its work, and into no service, which may last as long as the daemon.
Where nobody traces, a stage costs one look at a variable.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass, field

MILLION = 1_000_000
PROBLEM_LIMIT = 300
"""Characters of an error that a span keeps."""
_PARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
"""W3C Trace Context, section 3.2.2; later versions may say more after it."""
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """What a caller says of the trace that its call belongs to."""

    trace: str
    """32 hexadecimal digits."""
    span: int
    is_sampled: bool
    """Whether the caller keeps its own spans."""


@dataclass(frozen=True, slots=True)
class Span:
    """One that has ended."""

    name: str
    trace: str
    id: int
    parent: int
    """0: it is the first of its trace."""
    is_call: bool
    """Somebody else's span is its parent; otherwise it is a stage."""
    began: int
    """Nanoseconds since the epoch, as `ended`."""
    ended: int
    attributes: Mapping[str, str | int]
    problem: str
    """Empty where all went well."""


SpanSink = Callable[[Span], None]
"""Takes each span that has ended. It must not wait."""


@dataclass(slots=True, eq=False)
class OpenSpan:
    """A span under way."""

    sink: SpanSink
    name: str
    trace: str
    parent: int
    is_call: bool = False
    outer: OpenSpan | None = None
    """What this one is a stage of."""
    attributes: dict[str, str | int] = field(default_factory=dict)
    problem: str = ""
    id: int = field(default_factory=lambda: random.getrandbits(64) or 1)  # it is no secret
    began: int = field(default_factory=time.time_ns)

    def end(self) -> None:
        self.sink(
            Span(
                self.name,
                self.trace,
                self.id,
                self.parent,
                self.is_call,
                self.began,
                time.time_ns(),
                self.attributes,
                self.problem,
            )
        )


class Tracer:
    """Begins the span of a call, if it is one to be traced."""

    def __init__(self, sink: SpanSink, rate_per_million: int) -> None:
        """`rate_per_million`: of the calls whose callers say nothing of a trace."""
        self._sink = sink
        self._rate = rate_per_million

    def begin(self, name: str, parent: TraceParent | None) -> OpenSpan | None:
        """None where it is not traced: a caller decides for its own trace."""
        if parent is not None:
            if not parent.is_sampled:
                return None
            return OpenSpan(self._sink, name, parent.trace, parent.span, is_call=True)
        if random.randrange(MILLION) >= self._rate:  # noqa: S311
            return None
        trace = f"{random.getrandbits(128) or 1:032x}"
        return OpenSpan(self._sink, name, trace, 0, is_call=True)


_CURRENT: ContextVar[OpenSpan | None] = ContextVar("crib_span", default=None)


def parse_parent(text: str) -> TraceParent | None:
    """None for what is no trace parent."""
    found = _PARENT.fullmatch(text)
    if found is None or not found[1].strip("0") or not found[2].strip("0") or text.startswith("ff"):
        return None
    return TraceParent(found[1], int(found[2], 16), bool(int(found[3], 16) & _SAMPLED))


def enter_span(span: OpenSpan) -> None:
    """From here on what the current task does, and the work that it begins, is a part of that."""
    _CURRENT.set(span)


def leave_spans(context: Context) -> None:
    """What runs in that context is a part of no span."""
    context.run(_CURRENT.set, None)


def open_stage(name: str, subject: str) -> OpenSpan | None:
    """From here on the current task is in this span, until `close_stage`; None where nobody traces."""
    outer = _CURRENT.get()
    if outer is None:
        return None
    span = OpenSpan(outer.sink, name, outer.trace, outer.id, outer=outer)
    if subject:
        span.attributes["crib.subject"] = subject
    _CURRENT.set(span)
    return span


def close_stage(span: OpenSpan, error: BaseException | None) -> None:
    """`error` is what the stage ended with."""
    _CURRENT.set(span.outer)
    if error is not None:
        span.problem = (str(error) or type(error).__name__)[:PROBLEM_LIMIT]
    span.end()
