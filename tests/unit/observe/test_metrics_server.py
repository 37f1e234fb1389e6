"""The server of the metrics: what it answers, and how little a client can take from it."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from crib.observe import metrics_server
from crib.observe.metrics_server import CLIENTS, HEAD_BYTES, MetricsServer
from crib.observe.reading import DaemonMetric, Taken, Values
from tests.fakes.world import until

BOUND = 60.0
"""Seconds after which a test has failed; nothing here takes that long."""
GET = b"GET /metrics HTTP/1.1\r\nHost: crib\r\n\r\n"
LARGE = 1 << 23
"""Bytes of a page that no socket's buffers take."""


def family(name: str = "crib_things") -> DaemonMetric:
    return DaemonMetric("gauge", name, "Things.", lambda _: {})


async def at_once(_: str, work: Callable[[], bytes]) -> bytes:
    return work()


class Page:
    """What is read next."""

    def __init__(self) -> None:
        self.values: Values = {(): 7.0}
        self.family = family()

    def __call__(self) -> Taken:
        return [(self.family, self.values)]


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "metrics.sock")


@pytest.fixture
async def server(page: Page, path: str) -> AsyncIterator[MetricsServer]:
    server = MetricsServer(page, at_once)
    async with asyncio.timeout(BOUND):
        await server.listen(f"unix:{path}")
        yield server
        await server.close()


async def asked(path: str, request: bytes = GET) -> bytes:
    """The answer; nothing where the connection was closed, maybe before all of the request was sent."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_request_gets_what_is_so_then(server: MetricsServer, page: Page, path: str) -> None:
    assert b"\ncrib_things 7.0\n" in await asked(path)
    page.values = {(): 8.0}
    assert b"\ncrib_things 8.0\n" in await asked(path)


async def test_prometheus_gets_the_format_that_it_prefers(server: MetricsServer, path: str) -> None:
    accept = b"Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n"
    answer = await asked(path, GET.replace(b"Host", accept + b"Host"))
    assert b"Content-Type: application/openmetrics-text; version=1.0.0" in answer
    assert answer.endswith(b"# EOF\n")


async def test_a_client_that_takes_gzip_gets_it(server: MetricsServer, path: str) -> None:
    answer = await asked(path, GET.replace(b"Host", b"Accept-Encoding: gzip\r\nHost"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert b"crib_things 7.0" in gzip.decompress(body)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nHost: crib\r\n\r\n", b" 501 "),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b" 505 "),
        (b"\x00\xff\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_request_for_metrics_is_refused(
    server: MetricsServer, path: str, request_: bytes, status: bytes
) -> None:
    answer = await asked(path, request_)
    assert status in answer
    assert b"crib_things" not in answer
    assert b"\ncrib_things 7.0\n" in await asked(path), "and others are served"


async def test_a_head_that_does_not_end_is_cut_off(
    server: MetricsServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "SECONDS", 2 * BOUND)
    assert await asked(path, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES) == b""


async def test_a_client_that_says_nothing_is_sent_away(
    server: MetricsServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(silent, path)
        assert await loop.sock_recv(silent, 1) == b""


async def test_a_client_that_does_not_read_is_sent_away(
    server: MetricsServer, page: Page, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "SECONDS", 0.05)
    gone = asyncio.Event()
    lost = metrics_server._Client.connection_lost

    def connection_lost(client: metrics_server._Client, error: Exception | None) -> None:
        lost(client, error)
        gone.set()

    monkeypatch.setattr(metrics_server._Client, "connection_lost", connection_lost)
    page.family = DaemonMetric("gauge", "crib_things", "x" * LARGE, lambda _: {})
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(lazy, path)
        await loop.sock_sendall(lazy, GET)
        await gone.wait()
    assert not server.clients
    page.family = family()
    assert b"\ncrib_things 7.0\n" in await asked(path)


async def test_more_clients_than_are_served_are_sent_away(server: MetricsServer, path: str) -> None:
    loop = asyncio.get_running_loop()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(CLIENTS)]
    try:
        for one in silent:
            one.setblocking(False)
            await loop.sock_connect(one, path)
        await until(lambda: len(server.clients) == CLIENTS)
        assert await asked(path) == b""
    finally:
        for one in silent:
            one.close()
    await until(lambda: not server.clients)
    assert b"\ncrib_things 7.0\n" in await asked(path)


async def test_an_answer_that_takes_too_long_is_none(path: str, page: Page) -> None:
    async def never(what: str, _: Callable[[], bytes]) -> bytes:
        raise TimeoutError(f"{what}: takes more than 10 s")

    server = MetricsServer(page, never)
    async with asyncio.timeout(BOUND):
        await server.listen(f"unix:{path}")
        assert await asked(path) == b""
        await server.close()


@pytest.mark.parametrize("place", ["127.0.0.1:0", "[::1]:0"])
async def test_it_listens_on_tcp_too(page: Page, place: str) -> None:
    server = MetricsServer(page, at_once)
    async with asyncio.timeout(BOUND):
        port = await server.listen(place)
        host = place.rpartition(":")[0].strip("[]")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(GET)
        assert b"\ncrib_things 7.0\n" in await reader.read()
        writer.close()
        await server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
