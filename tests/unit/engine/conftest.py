"""A running engine over fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.fakes.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has the loop's clock go forward by so many seconds at once: what was to happen until then is due."""
    loop = asyncio.get_running_loop()

    def go(seconds: float) -> None:
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + seconds)

    return go
