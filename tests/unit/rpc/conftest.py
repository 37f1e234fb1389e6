"""A server, and a client that speaks frame by frame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.rpc.lab import Lab
from tests.unit.rpc.raw_client import RawClient, connected


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(str(tmp_path / "s"))
    await lab.start()
    yield lab
    await lab.server.stop(0)
    assert (lab.server._open, len(lab.server._connections)) == (0, 0)


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[RawClient]:
    async with connected(lab.path) as client:
        yield client
