"""Many pods made and removed, ten at a time; then everything of every kind is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

CONCURRENCY = 10


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def one_life(cri: Cri, number: int) -> None:
    """A pod as most are: two containers, one of which ends by itself; every fourth shares its pids."""
    options = pb.NamespaceOption(pid=pb.POD if number % 4 == 0 else pb.CONTAINER)
    ports = [pb.PortMapping(container_port=80, host_port=20000 + number)] if number % 3 == 0 else []
    pod = await cri.run_pod(f"pod{number}", namespaces=options, port_mappings=ports)
    main = await cri.run_container(pod, "sleep", "1000", name="main", namespaces=options)
    brief = await cri.run_container(pod, "sh", "-c", f"exit {number % 100}", name="brief", namespaces=options)
    assert await cri.sh(main, "hostname") == f"pod{number}"
    assert (await cri.exited(brief, 30)).exit_code == number % 100
    if number % 2:
        await cri.stop_container(main)
        await cri.remove_container(main)
    await cri.remove_pod(pod)


async def lives(cri: Cri, count: int) -> None:
    limit = asyncio.Semaphore(CONCURRENCY)

    async def bounded(number: int) -> None:
        async with limit:
            await one_life(cri, number)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(bounded(number))


async def test_two_hundred_pods_leave_nothing(cri: Cri) -> None:
    await lives(cri, 200)
    assert await cri.sandboxes() == {}


async def test_pods_that_are_removed_while_they_are_made_leave_nothing(cri: Cri) -> None:
    async def hurried(number: int) -> None:
        pod = await cri.run_pod(f"hurried{number}")
        async with asyncio.TaskGroup() as group:
            making = group.create_task(_forgiving(cri.run_container(pod, "sleep", "1000")))
            await asyncio.sleep(0.002 * number)  # sweeps over the steps of the create
            await cri.remove_pod(pod)
            await making

    await asyncio.gather(*(hurried(number) for number in range(20)))
    assert await cri.sandboxes() == {}
    assert await cri.containers() == {}


async def _forgiving(work: object) -> None:
    from crib.client.errors import NotFound, RuntimeFailure, WrongState

    try:
        await work  # type: ignore[misc]
    except (NotFound, WrongState, RuntimeFailure):
        pass  # its sandbox went meanwhile
