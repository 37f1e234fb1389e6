"""Probes and hooks against servers of this machine, and commands against a runtime in memory."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from crib.client import Connection
from crib.client.workloads.hooks import run_hook
from crib.client.workloads.probers import MAX_TEXT, ProbeTarget, ask, first_result
from crib.client.workloads.probing import ProbeAnswer, ProbeTally
from crib.manifest.behaviour_plan import (
    ExecAction,
    GrpcAction,
    HttpAction,
    ProbePlan,
    SleepAction,
    TcpAction,
)
from tests.tls_lab import Authority
from tests.unit.client.fake_runtime import World, serve

LONG = 60.0


@contextlib.asynccontextmanager
async def listening(reply: Callable[[bytes], bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that gives `reply` of each request's head; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(reply(await reader.readuntil(b"\r\n\r\n")))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[ProbeTarget]:
    server = await serve(f"{tmp_path}/s", World())
    async with Connection(f"{tmp_path}/s") as connection:
        yield ProbeTarget(connection, "c1", "127.0.0.1")
    await server.stop(None)


def status(line: str, body: str = "", *headers: str) -> bytes:
    head = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n{head}\r\n{body}".encode()


@pytest.mark.parametrize(
    ("line", "good"),
    [("200 OK", True), ("302 Found", True), ("399 x", True), ("404 x", False), ("500 x", False)],
)
async def test_the_status_of_an_http_answer_decides(target: ProbeTarget, line: str, good: bool) -> None:
    async with listening(lambda _: status(line, "words")) as port:
        answer = await ask(target, HttpAction(port), LONG)
    assert answer.good is good
    assert answer.text == f"HTTP status {line[:3]}" + ("" if good else ": words")


async def test_an_http_request_is_as_the_manifest_has_it(target: ProbeTarget) -> None:
    heads: list[str] = []

    def reply(head: bytes) -> bytes:
        heads.append(head.decode())
        return status("204 No Content")

    async with listening(reply) as port:
        action = HttpAction(port, "/a%2fb?c=d", headers=(("Host", "web.test"), ("X-Probe", "1")))
        assert (await ask(target, action, LONG)).good
    assert heads[0].startswith("GET /a%2fb?c=d HTTP/1.1\r\n")
    assert "Host: web.test\r\n" in heads[0]
    assert "X-Probe: 1\r\n" in heads[0]
    assert "User-Agent: kube-probe/" in heads[0]


async def test_redirects_are_followed_on_the_same_host_only(target: ProbeTarget) -> None:
    def reply(head: bytes) -> bytes:
        places = {b"/": "/next", b"/next": "http://elsewhere.test/", b"/round": "/round"}
        path = head.split()[1]
        return status("302 Found", "", f"Location: {places[path]}")

    async with listening(reply) as port:
        assert await ask(target, HttpAction(port), LONG) == ProbeAnswer(True, "redirected to elsewhere.test")
        answer = await ask(target, HttpAction(port, "/round"), LONG)
    assert not answer.good
    assert "more than 10 redirects" in answer.text


async def test_a_certificate_is_not_verified(target: ProbeTarget) -> None:
    tls = Authority().server_context("127.0.0.1")
    async with listening(lambda _: status("200 OK"), tls) as port:
        assert (await ask(target, HttpAction(port, scheme="HTTPS"), LONG)).good
        assert not (await ask(target, HttpAction(port), LONG)).good


async def test_a_server_that_never_stops_talking_is_read_to_a_limit(target: ProbeTarget) -> None:
    async with listening(lambda _: status("500 x", "y" * (MAX_TEXT * 4))) as port:
        answer = await ask(target, HttpAction(port), LONG)
    assert not answer.good
    assert len(answer.text) <= MAX_TEXT


async def test_a_server_that_says_nothing_is_not_waited_for(target: ProbeTarget) -> None:
    async with listening(lambda _: b"") as port:
        assert not (await ask(target, HttpAction(port), LONG)).good
    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the prober has left
        writer.close()
        left.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await ask(target, HttpAction(port), 0.05)
        await left.wait()
    assert answer == ProbeAnswer(False, "no answer within 0.05 s")


async def test_tcp_is_well_when_it_connects(target: ProbeTarget) -> None:
    async with listening(lambda _: b"") as port:
        assert (await ask(target, TcpAction(port), LONG)).good
    assert not (await ask(target, TcpAction(port), LONG)).good


async def test_grpc_is_well_when_the_service_is_serving(target: ProbeTarget) -> None:
    servicer = cast(Any, health).aio.HealthServicer()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await servicer.set("db", health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        assert await ask(target, GrpcAction(port), LONG) == ProbeAnswer(True, "SERVING")
        assert await ask(target, GrpcAction(port, "db"), LONG) == ProbeAnswer(False, "NOT_SERVING")
        assert not (await ask(target, GrpcAction(port, "other"), LONG)).good
    finally:
        await server.stop(None)


async def test_a_commands_exit_code_decides_and_its_output_is_cut(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    async with Connection(f"{tmp_path}/s") as connection:
        target = ProbeTarget(connection, "c1", "127.0.0.1")
        assert (await ask(target, ExecAction(("true",)), 3)).good
        world.exec_reply.exit_code = 127
        world.exec_reply.stderr = b"x" * (2 * MAX_TEXT)
        answer = await ask(target, ExecAction(("nothing",)), 3)
    await server.stop(None)
    assert answer == ProbeAnswer(False, "x" * MAX_TEXT)
    assert [(one.container_id, list(one.cmd), one.timeout) for one in world.exec_requests] == [
        ("c1", ["true"], 3),
        ("c1", ["nothing"], 3),
    ]


async def test_a_hook_says_what_went_wrong(target: ProbeTarget) -> None:
    assert await run_hook(target, SleepAction(0), LONG) == ""
    assert await run_hook(target, SleepAction(60), 0.01) == "it took longer than 0.01 s"
    assert await run_hook(target, ExecAction(("true",)), LONG) == ""
    async with listening(lambda _: status("503 x", "busy")) as port:
        assert await run_hook(target, HttpAction(port), LONG) == "HTTP status 503: busy"


async def test_a_probe_is_repeated_until_a_threshold_is_reached(target: ProbeTarget) -> None:
    answers = iter([status("500 x"), status("200 OK"), status("500 x"), status("500 x")])
    async with listening(lambda _: next(answers)) as port:
        probe = ProbePlan(HttpAction(port), period=0, timeout=60, failure_threshold=2)
        assert (await first_result(target, probe, 0)).good
        assert not (await first_result(target, probe, 0)).good


def test_answers_count_in_a_row_only() -> None:
    tally = ProbeTally(ProbePlan(TcpAction(1), success_threshold=2, failure_threshold=3))
    given = [True, False, False, True, True, True, False, False, False, False]
    taken = [tally.take(ProbeAnswer(good)) for good in given]
    assert taken == [None, None, None, None, True, True, None, None, False, False]
