"""The daemon's call to itself: what counts as an answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest
from grpc import aio

from crib.api.server import Server, answer_problem
from crib.engine.node import Node
from crib.model.settings import Settings
from tests.unit.api.fake_node import FakeNode

BOUND = 60.0
"""Seconds that an answer gets where one comes."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    node = FakeNode(Settings(data=str(tmp_path / "data"), state=str(tmp_path)))
    server = Server(cast(Node, node), "9.9", lambda kind, token: token)
    await server.start()
    yield server
    await server.stop(0)


@pytest.mark.usefixtures("server")
async def test_a_daemon_that_has_not_opened_its_gate_answers(tmp_path: Path) -> None:
    assert await answer_problem(str(tmp_path / "crib.sock"), BOUND) == ""


@pytest.mark.usefixtures("server")
async def test_a_socket_that_is_gone_does_not_answer_though_it_did(tmp_path: Path) -> None:
    path = tmp_path / "crib.sock"
    assert await answer_problem(str(path), BOUND) == ""
    path.rename(tmp_path / "moved")
    assert (await answer_problem(str(path), BOUND)).startswith("UNAVAILABLE: ")
    (tmp_path / "moved").rename(path)


@pytest.fixture
def refusing() -> Iterator[list[asyncio.Event]]:
    events: list[asyncio.Event] = []
    yield events
    for event in events:
        event.set()


async def test_a_refusal_of_one_call_too_many_is_an_answer(
    tmp_path: Path, refusing: list[asyncio.Event]
) -> None:
    full, let_go = asyncio.Event(), asyncio.Event()
    refusing.append(let_go)

    async def wait(_: object, __: object) -> bytes:
        full.set()
        await let_go.wait()
        return b""

    handler = grpc.method_handlers_generic_handler(
        "runtime.v1.RuntimeService", {"Version": grpc.unary_unary_rpc_method_handler(wait)}
    )
    server = aio.server(maximum_concurrent_rpcs=1)
    server.add_generic_rpc_handlers((handler,))
    path = str(tmp_path / "full.sock")
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    first = asyncio.ensure_future(answer_problem(path, BOUND))
    await asyncio.wait_for(full.wait(), BOUND)
    assert await answer_problem(path, BOUND) == ""
    let_go.set()
    assert await first == ""
    await server.stop(0)


async def test_whoever_accepts_and_says_nothing_does_not_answer(tmp_path: Path) -> None:
    path = str(tmp_path / "mute.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        assert await answer_problem(path, 0.2) == "no answer within 0.2 s"
