"""Mounts and unmounts are told, once for each time that somebody listens."""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.host.mount_table import MountChanges
from crib.host.mounts import Tmpfs, perform, unmount

pytestmark = pytest.mark.root

BOUND = 60.0


class Told:
    """Counts, and can be waited for."""

    def __init__(self) -> None:
        self.times = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.times += 1
        self._event.set()

    async def wait(self) -> None:
        async with asyncio.timeout(BOUND):
            await self._event.wait()
        self._event.clear()


@pytest.fixture
async def told() -> AsyncIterator[tuple[Told, MountChanges]]:
    told = Told()
    changes = MountChanges(told)
    yield told, changes
    changes.close()


async def test_a_mount_and_an_unmount_are_told(told: tuple[Told, MountChanges], tmp_path: Path) -> None:
    heard, changes = told
    changes.listen()
    perform(Tmpfs(str(tmp_path), 1 << 20, mode=0o700))
    await heard.wait()
    changes.listen()
    unmount(str(tmp_path))
    await heard.wait()


async def test_nothing_is_told_to_who_does_not_listen(
    told: tuple[Told, MountChanges], tmp_path: Path
) -> None:
    heard, changes = told
    for _ in range(3):
        perform(Tmpfs(str(tmp_path), 1 << 20, mode=0o700))
        unmount(str(tmp_path))
    for _ in range(10):
        await asyncio.sleep(0)
    assert heard.times == 0
    changes.listen()
    for _ in range(3):
        perform(Tmpfs(str(tmp_path), 1 << 20, mode=0o700))
        unmount(str(tmp_path))
    await heard.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert heard.times == 1


async def test_a_watch_that_cannot_begin_leaves_no_descriptor_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def register(self, *_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(select, "epoll", Full)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space left"):
        MountChanges(print)
    assert len(os.listdir("/proc/self/fd")) == len(before)
