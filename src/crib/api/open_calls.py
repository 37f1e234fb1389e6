"""One call under way: how long it took and how it ended is counted, and told to whoever traces it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import grpc

from crib.model.tallies import CallFigures
from crib.tasks.calls import CallUnderWay
from crib.tasks.spans import OpenSpan

_log = logging.getLogger(__name__)

OK = "OK"
GONE = "CANCELLED"
"""The code of a call whose caller did not wait for an answer."""


@dataclass(frozen=True, slots=True)
class CallName:
    """Which call it is."""

    service: str
    method: str

    @property
    def title(self) -> str:
        """As kubelets name their own spans."""
        return f"{self.service}/{self.method}"


class OpenCall:
    """From its arrival until `end`."""

    __slots__ = ("_began", "_call", "_figures", "_is_stream", "_name", "_span", "code", "problem")

    def __init__(
        self,
        name: CallName,
        call: CallUnderWay,
        figures: CallFigures,
        span: OpenSpan | None,
        *,
        is_stream: bool = False,
    ) -> None:
        self.code = GONE
        """Name of the status that it was answered with."""
        self.problem = ""
        self._name = name
        self._call = call
        self._figures = figures
        self._span = span
        self._is_stream = is_stream
        self._began = time.monotonic()
        figures.open.add((name.method,))

    @property
    def name(self) -> str:
        """Of the method."""
        return self._name.method

    @property
    def milliseconds(self) -> float:
        """Since it began."""
        return (time.monotonic() - self._began) * 1000

    def succeed(self) -> None:
        self.code = OK
        _log.debug("%s done in %.3f ms", self.name, self.milliseconds)

    def end(self) -> None:
        figures, labels = self._figures, (self.name,)
        figures.open.add(labels, -1)
        figures.answered.add((self.name, self.code))
        if not self._is_stream:  # a stream lasts as long as its client likes
            figures.durations.add(labels, time.monotonic() - self._began)
        if self._span is not None:
            self._end_span(self._span)

    def _end_span(self, span: OpenSpan) -> None:
        """Attributes are those of OpenTelemetry's conventions for RPC, and some of our own."""
        span.attributes |= {
            "rpc.system": "grpc",
            "rpc.service": self._name.service,
            "rpc.method": self.name,
            "rpc.grpc.status_code": grpc.StatusCode[self.code].value[0],
            "crib.request": self._call.request,
        }
        span.problem = "" if self.code == OK else self.problem or self.code
        span.end()
