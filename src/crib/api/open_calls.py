"""One call under way: how long it took and how it ended is counted, and told to whoever traces it."""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.tallies import CallFigures
from crib.rpc.codes import Code
from crib.tasks.calls import CallUnderWay
from crib.tasks.spans import OpenSpan


@dataclass(frozen=True, slots=True)
class CallName:
    """Which call it is."""

    service: str
    method: str

    @property
    def title(self) -> str:
        """As a kubelet names its own span of it."""
        return f"{self.service}/{self.method}"


class OpenCall:
    """From its arrival until `end`."""

    __slots__ = ("_call", "_figures", "_is_stream")

    def __init__(self, call: CallUnderWay, figures: CallFigures, *, is_stream: bool = False) -> None:
        self._call = call
        self._figures = figures
        self._is_stream = is_stream
        figures.open.add((call.verb,))

    def end(self) -> None:
        figures, labels = self._figures, (self._call.verb,)
        figures.open.add(labels, -1)
        figures.answered.add((self._call.verb, self._call.code))
        if not self._is_stream:  # a stream lasts as long as its client likes
            figures.durations.add(labels, self._call.milliseconds / 1000)
        if self._call.span is not None:
            self._end(self._call.span)

    def _end(self, span: OpenSpan) -> None:
        """Attributes are those of OpenTelemetry's conventions for RPC, and the call's number in the log."""
        call = self._call
        span.attributes |= {
            "rpc.method": call.verb,
            "rpc.grpc.status_code": int(Code[call.code]),
            "crib.request": call.request,
        }
        span.problem = "" if call.code == Code.OK.name else call.error or call.code
        span.end()
