"""Spans on their way to an OpenTelemetry collector, by OTLP over gRPC, in a thread of their own.

The loop puts a span into a queue, and that is all it has to do with it. When the collector is away the queue
fills up, and what comes then is dropped and counted. The libraries are crib's extra `otel`; they are imported
in the thread, and only where spans are asked for.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from crib.tasks.spans import Span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

_log = logging.getLogger(__name__)

QUEUE_LIMIT = 4096
"""Spans that wait: those of some hundred starts of pods."""
BATCH_LIMIT = 512
"""Spans of one message."""
DELAY_SECONDS = 1.0
"""From a span to the message that has it, so that one message has many."""
EXPORT_SECONDS = 10.0
"""For one message, tries again included."""
_CHANNEL_OPTIONS: Any = (("grpc.enable_http_proxy", 0),)
"""The proxies of the environment are for images."""
_EXPORTERS_LOG = "opentelemetry.exporter.otlp.proto.grpc.exporter"
"""Where the exporter says at each try why it failed."""


class SpanQueue:
    """Takes spans, and hands them to a collector."""

    def __init__(self, endpoint: str, version: str) -> None:
        """`endpoint`: HOST:PORT or unix:PATH."""
        self._endpoint = endpoint
        self._version = version
        self._spans: deque[Span] = deque()
        self._wake, self._ends = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="crib-spans", daemon=True)
        self._exporter: OTLPSpanExporter | None = None
        self._is_broken = self._has_failed = False
        self.exported = self.failed = self.dropped = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of all spans until now."""
        return {"exported": self.exported, "failed": self.failed, "dropped": self.dropped}

    def start(self) -> None:
        self._thread.start()

    def put(self, span: Span) -> None:
        """To be sent. It does not wait."""
        if self._is_broken or len(self._spans) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._spans.append(span)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, seconds: float) -> None:
        """Send what there is, for so long at most. It waits: to be called in a thread."""
        self._ends.set()
        self._wake.set()
        self._thread.join(seconds)
        if self._thread.is_alive() and self._exporter is not None:
            self._exporter.shutdown(timeout_millis=0)  # it tries no more

    def _run(self) -> None:
        try:
            self._exporter, resource = _opened(self._endpoint, self._version)
        except ImportError as error:
            self._is_broken = True
            _log.error("tracing: no spans are sent: %s; install crib with its extra `otel`", error)
            return
        is_last = False
        while not is_last:
            self._wake.wait()
            is_last = self._ends.wait(DELAY_SECONDS)
            self._wake.clear()
            while self._spans:
                self._send(self._exporter, resource)
        self._exporter.shutdown(timeout_millis=0)

    def _send(self, exporter: OTLPSpanExporter, resource: Resource) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        batch = [self._spans.popleft() for _ in range(min(len(self._spans), BATCH_LIMIT))]
        try:
            done = exporter.export([_readable(span, resource) for span in batch]) is SpanExportResult.SUCCESS
        except Exception:  # of a library, in a thread that nobody would miss
            _log.exception("tracing: %d spans could not be sent", len(batch))
            done = False
        if done:
            self.exported += len(batch)
        else:
            self.failed += len(batch)
        if done and self._has_failed:
            _log.info("tracing: %s takes spans again", self._endpoint)
        elif not done and not self._has_failed:
            _log.warning("tracing: %s takes no spans; they are dropped until it does", self._endpoint)
        self._has_failed = not done


def _opened(endpoint: str, version: str) -> tuple[OTLPSpanExporter, Resource]:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource

    logging.getLogger(_EXPORTERS_LOG).setLevel(logging.CRITICAL)  # what matters of it is said once, here
    resource = Resource(
        {"service.name": "crib", "service.version": version, "host.name": os.uname().nodename}
    )
    exporter = OTLPSpanExporter(
        endpoint=endpoint, insecure=True, timeout=EXPORT_SECONDS, channel_options=_CHANNEL_OPTIONS
    )
    return exporter, resource


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    """As the exporter wants it."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(number: int, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(int(span.trace, 16), number, is_remote, TraceFlags(TraceFlags.SAMPLED))

    return ReadableSpan(
        span.name,
        context=context(span.id),
        parent=context(span.parent, is_remote=span.is_call) if span.parent else None,
        resource=resource,
        attributes=span.attributes,
        kind=SpanKind.SERVER if span.is_call else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.problem) if span.problem else Status(),
        start_time=span.began,
        end_time=span.ended,
        instrumentation_scope=InstrumentationScope("crib"),
    )
