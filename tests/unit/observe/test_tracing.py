"""Spans reach a collector, and one that is away costs nothing but the spans."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from crib.observe import tracing
from crib.observe.tracing import QUEUE_LIMIT, SpanQueue
from crib.tasks.spans import Span
from tests.collector import BOUND, running_collector
from tests.registry import free_port

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def span(number: int = 1, *, parent: int = 0, problem: str = "", is_call: bool = False) -> Span:
    return Span(
        f"span {number}", TRACE, number, parent, is_call, 1000, 2000, {"crib.number": number}, problem
    )


@pytest.fixture
def queues() -> Iterator[list[SpanQueue]]:
    made: list[SpanQueue] = []
    yield made
    for queue in made:
        queue.close(BOUND)
        queue._thread.join(BOUND)
        assert not queue._thread.is_alive()


def started(queues: list[SpanQueue], endpoint: str) -> SpanQueue:
    queue = SpanQueue(endpoint, "9.9")
    queues.append(queue)
    queue.start()
    return queue


def test_a_span_reaches_the_collector_with_all_that_it_has(tmp_path: Path, queues: list[SpanQueue]) -> None:
    place = f"unix:{tmp_path}/otel.sock"
    with running_collector(place) as collector:
        queue = started(queues, place)
        queue.put(span(1, is_call=True, parent=77))
        queue.put(span(2, parent=1, problem="no address is left"))
        call, stage = collector.until(lambda spans: len(spans) == 2)
    assert collector.resources[0]["service.name"] == "crib"
    assert collector.resources[0]["service.version"] == "9.9"
    assert (call.trace_id.hex(), call.span_id.hex()) == (TRACE, "0000000000000001")
    assert (call.parent_span_id.hex(), stage.parent_span_id) == ("000000000000004d", call.span_id)
    assert (call.kind, stage.kind) == (call.SPAN_KIND_SERVER, call.SPAN_KIND_INTERNAL)
    assert (call.start_time_unix_nano, call.end_time_unix_nano) == (1000, 2000)
    assert {one.key: one.value.int_value for one in call.attributes} == {"crib.number": 1}
    assert (stage.status.code, stage.status.message) == (stage.status.STATUS_CODE_ERROR, "no address is left")
    assert call.status.code == call.status.STATUS_CODE_UNSET


def test_what_is_left_at_the_end_is_sent(tmp_path: Path, queues: list[SpanQueue]) -> None:
    place = f"unix:{tmp_path}/otel.sock"
    with running_collector(place) as collector:
        queue = started(queues, place)
        for number in range(1, 2000):
            queue.put(span(number))
        queue.close(BOUND)
        assert len(collector.spans) == 1999
    assert queue.counts == {"exported": 1999, "failed": 0, "dropped": 0}


class Exporter:
    """Stands for the library's: takes spans as it is told."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.answers = True
        self.taken = threading.Semaphore(0)

    def export(self, spans: list[Any]) -> SpanExportResult:
        self.taken.release()
        assert self.goes_on.wait(BOUND)
        return SpanExportResult.SUCCESS if self.answers else SpanExportResult.FAILURE

    def shutdown(self, timeout_millis: float) -> None:
        self.goes_on.set()


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Exporter:
    exporter = Exporter()
    monkeypatch.setattr(tracing, "_opened", lambda endpoint, version: (exporter, Resource({})))
    monkeypatch.setattr(tracing, "DELAY_SECONDS", 0.01)
    return exporter


def test_what_a_collector_does_not_take_is_dropped_and_nobody_waits(
    queues: list[SpanQueue], exporter: Exporter
) -> None:
    queue = started(queues, "away:4317")
    queue.put(span())
    assert exporter.taken.acquire(timeout=BOUND), "from here on the thread waits for the collector"
    for number in range(QUEUE_LIMIT + 10):
        queue.put(span(number + 1))
    assert queue.counts == {"exported": 0, "failed": 0, "dropped": 10}
    exporter.goes_on.set()
    queue.close(BOUND)
    assert queue.counts == {"exported": QUEUE_LIMIT + 1, "failed": 0, "dropped": 10}


def test_a_collector_that_is_away_is_told_of_once_and_once_when_it_is_back(
    queues: list[SpanQueue], exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="crib.observe.tracing")
    exporter.goes_on.set()
    queue = started(queues, "away:4317")
    for answers in (True, False, False, True):
        exporter.answers = answers
        before = sum(queue.counts.values())
        queue.put(span())
        deadline = time.monotonic() + BOUND
        while sum(queue.counts.values()) == before and time.monotonic() < deadline:
            time.sleep(0.001)  # the thread tells nobody
    queue.close(BOUND)
    told = [record.getMessage() for record in caplog.records if record.name == "crib.observe.tracing"]
    assert told == [
        "tracing: away:4317 takes no spans; they are dropped until it does",
        "tracing: away:4317 takes spans again",
    ]
    assert queue.counts == {"exported": 2, "failed": 2, "dropped": 0}


def test_an_end_does_not_wait_for_a_collector_that_is_away(
    queues: list[SpanQueue], exporter: Exporter
) -> None:
    queue = started(queues, "away:4317")
    queue.put(span())
    assert exporter.taken.acquire(timeout=BOUND)
    queue.close(0.01)
    queue._thread.join(BOUND)
    assert not queue._thread.is_alive(), "its tries were not ended"


def test_the_librarys_own_tries_end_with_the_daemon(
    queues: list[SpanQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "DELAY_SECONDS", 0.01)
    monkeypatch.setattr(tracing, "EXPORT_SECONDS", 10 * BOUND)
    queue = started(queues, f"127.0.0.1:{free_port()}")
    queue.put(span())
    queue.close(0.1)
    queue._thread.join(BOUND)
    assert not queue._thread.is_alive()


def test_without_the_libraries_that_is_said_and_spans_are_dropped(
    queues: list[SpanQueue], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    queue = started(queues, "localhost:4317")
    queue._thread.join(BOUND)
    assert "install crib with its extra `otel`" in caplog.text
    queue.put(span())
    assert queue.counts == {"exported": 0, "failed": 0, "dropped": 1}
