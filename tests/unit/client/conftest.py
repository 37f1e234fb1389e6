"""A runtime whose streams come from the real server, with commands that a test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from crib.client import Connection
from crib.streaming.head import BadRequest, RequestHead
from crib.streaming.server import StreamServer
from tests.unit.client.fake_runtime import World, serve
from tests.unit.streaming.lab import Lab, at_once


class Older(StreamServer):
    """As containerd and CRI-O: a WebSocket is refused, and the token is spent all the same."""

    def _choose(self, head: RequestHead):  # type: ignore[no-untyped-def]  # as the server's own
        chosen = super()._choose(head)
        if head.asks_for("websocket"):
            raise BadRequest(403, "Forbidden")
        return chosen


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def lab(world: World) -> AsyncIterator[Lab]:
    world.lab = await Lab().start()
    yield world.lab
    await world.lab.stop()


@pytest.fixture
async def older_lab(world: World) -> AsyncIterator[Lab]:
    lab = Lab()
    lab.server = Older(lab.streams, lab.settings.streaming, at_once)
    world.lab = await lab.start()
    yield lab
    await lab.stop()


@pytest.fixture
async def connection(world: World, tmp_path: Path) -> AsyncIterator[Connection]:
    server = await serve(f"{tmp_path}/s", world)
    async with Connection(f"{tmp_path}/s") as made:
        yield made
    await server.stop(None)


@pytest.fixture(params=["websocket", "spdy"])
def transport(request: pytest.FixtureRequest) -> Literal["websocket", "spdy"]:
    chosen: Literal["websocket", "spdy"] = request.param
    return chosen
