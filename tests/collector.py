"""An OpenTelemetry collector: takes spans by OTLP over gRPC and keeps them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

BOUND = 60.0
"""Seconds that anybody waits for spans at most."""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What came, in its order."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.stop: Callable[[], None] = lambda: None
        self._news = threading.Condition()

    def Export(self, request: Any, context: object) -> Any:  # noqa: N802 # the protocol's name
        with self._news:
            for group in request.resource_spans:
                self.resources.append({one.key: one.value.string_value for one in group.resource.attributes})
                for scope in group.scope_spans:
                    self.spans += scope.spans
            self._news.notify_all()
        return pb.ExportTraceServiceResponse()

    def until(self, condition: Callable[[list[Any]], bool]) -> list[Any]:
        """The spans as soon as they are so."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self.spans), BOUND), [s.name for s in self.spans]
            return list(self.spans)


@contextlib.contextmanager
def running_collector(place: str) -> Iterator[Collector]:
    """At HOST:PORT or unix:PATH."""
    collector = Collector()
    server: Any = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(place)
    server.start()
    collector.stop = lambda: server.stop(0).wait()
    try:
        yield collector
    finally:
        collector.stop()
