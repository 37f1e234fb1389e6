"""A driver that answers, in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.csi_lab import CsiLab


@pytest.fixture
async def lab(private_root: Path) -> AsyncIterator[CsiLab]:
    """Whatever a test does, the driver saw no breach of the rules."""
    lab = CsiLab(private_root)
    async with lab.serving():
        yield lab
    assert lab.breaches == []
