"""A running engine over fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.start()
    yield made
    await made.close()
