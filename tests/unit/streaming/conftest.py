"""A server for each test, and a count of what the test leaves behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from tests.unit.streaming.lab import Lab, MakeLab, until


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """A test ends with the tasks and descriptors that it began with."""
    tasks, fds = len(asyncio.all_tasks()), descriptors()
    yield
    await until(lambda: len(asyncio.all_tasks()) <= tasks and descriptors() <= fds)


@pytest.fixture
async def make_lab(nothing_is_left: None) -> AsyncIterator[MakeLab]:
    """Labs that are stopped at the end; arguments are StreamingSettings' (and `tty`, `stdin`)."""
    labs: list[Lab] = []

    async def make(**settings: object) -> Lab:
        labs.append(await Lab(**settings).start())  # type: ignore[arg-type]  # they are the settings' own
        return labs[-1]

    yield make
    for lab in labs:
        await lab.stop()


@pytest.fixture
async def lab(make_lab: MakeLab) -> Lab:
    return await make_lab()
