"""Commands that nobody waits for any more, by a shim that is slow."""

from __future__ import annotations

import asyncio
import signal
from typing import cast

import pytest

from crib.backends.shim.exec import started_or_ended
from crib.backends.shim.tasks import TaskService
from crib.model.errors import Broken, NotFound
from crib.tasks.keeper import HANDS
from tests.fakes.world import bounded


class SlowShim:
    """Starts a command when `go` is set; knows none before."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.go, self.forgotten = asyncio.Event(), asyncio.Event()
        self._runs = False

    async def start(self) -> int:
        await self.go.wait()
        self.calls.append("started")
        self._runs = True
        return 7

    async def kill(self, container: str, signum: int, name: str = "") -> None:
        if not self._runs:
            self.calls.append("nothing to kill")
            raise NotFound("no such process")
        assert signum == signal.SIGKILL
        self.calls.append("killed")

    async def wait(self, container: str, name: str = "") -> None:
        self.calls.append("ended")

    async def delete(self, container: str, name: str = "") -> None:
        self.calls.append("forgotten")
        self.forgotten.set()


async def test_a_command_that_was_given_up_is_ended_once_it_has_started() -> None:
    shim = SlowShim()
    waiting = HANDS.part("test", started_or_ended(cast(TaskService, shim), "box", "one", shim.start()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert shim.calls == []
    shim.go.set()
    async with bounded():
        await shim.forgotten.wait()
    assert shim.calls == ["started", "killed", "ended", "forgotten"]


async def test_a_command_that_cannot_be_started_is_forgotten() -> None:
    shim = SlowShim()

    async def refused() -> int:
        raise Broken("no such program")

    with pytest.raises(Broken, match="no such program"):
        await started_or_ended(cast(TaskService, shim), "box", "one", refused())
    async with bounded():
        await shim.forgotten.wait()
    assert shim.calls == ["nothing to kill", "forgotten"]


async def test_who_waits_is_told_the_pid() -> None:
    shim = SlowShim()
    shim.go.set()
    assert await started_or_ended(cast(TaskService, shim), "box", "one", shim.start()) == 7
    assert shim.calls == ["started"]
