"""A runtime whose streams come from the real server, with commands that a test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from crib.client import Connection
from tests.unit.client.fake_runtime import Older, World, serve
from tests.unit.streaming.lab import Lab, at_once


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
