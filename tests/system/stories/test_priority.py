"""cribd's threads come before others on a busy CPU; what it starts does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.labs.daemon import Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def plain_cribd() -> Iterator[Cribd]:
    with running_cribd(extra="nice = 0\n") as daemon:
        yield daemon


def nice_values(pid: int) -> set[int]:
    """Of all threads of a process."""
    return {os.getpriority(os.PRIO_PROCESS, int(each.name)) for each in Path(f"/proc/{pid}/task").iterdir()}


async def all_threads_have(nice: int, pid: int) -> None:
    async with asyncio.timeout(60):
        while nice_values(pid) != {nice}:  # noqa: ASYNC110  # the kernel tells nobody
            await asyncio.sleep(0.05)


async def test_all_threads_of_cribd_come_first_and_nothing_that_it_starts_does(cribd: Cribd) -> None:
    await all_threads_have(-10, cribd.pid)
    async with cribd.story() as cri:
        box = await cri.run_container(await cri.run_pod("nice"), "sleep", "1000")
        inside = await cri.sh(box, "cut -d' ' -f19 /proc/1/stat /proc/self/stat")
        assert inside.split() == ["0", "0"]
        first = (cribd.state / "containers" / box / "pidfile").read_text()
        monitor = Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1]
        assert os.getpriority(os.PRIO_PROCESS, int(monitor)) == 0
        await all_threads_have(-10, cribd.pid)  # those too that came meanwhile


async def test_who_asks_for_no_priority_gets_none(plain_cribd: Cribd) -> None:
    async with plain_cribd.story() as cri:
        await cri.run_pod("plain")
        assert nice_values(plain_cribd.pid) == {0}
