"""What unit tests of several rooms use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest


@pytest.fixture
async def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has the loop's clock go forward by so many seconds at once: what was to happen until then is due."""
    loop = asyncio.get_running_loop()

    def go(seconds: float) -> None:
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + seconds)

    return go
