"""A long run: pods come and go on the Engine while both daemons are killed; at the end nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest

from crib.client.errors import ClientError
from crib.client.pods import Pod
from tests.system.labs.daemon import Cribd, default_docker, running_cribd
from tests.system.labs.docker_engine import Engine, docker_engine

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.nightly]
ROUNDS = 12
PODS = 3
LONGEST_LIFE = 6.0
"""Seconds after which one of the two is killed at the latest."""


@pytest.fixture
def world() -> Iterator[tuple[Engine, Cribd]]:
    with docker_engine() as engine, running_cribd(extra=default_docker(engine.socket)) as cribd:
        yield engine, cribd


async def come_and_go(cribd: Cribd, number: int) -> None:
    """Whatever fails because a daemon was killed is left as it is."""
    with contextlib.suppress(ClientError, TimeoutError, AssertionError, OSError):
        async with cribd.connect(30.0) as cri:
            while True:
                pod: Pod = await cri.run_pod(f"pod{number}-{random.getrandbits(32):x}")
                box = await cri.run_container(pod, "sh", "-c", "echo hello; sleep 1000")
                await cri.run_container(pod, "true", name="short")
                await cri.sh(box, "echo inside")
                if random.random() < 0.7:  # some stay
                    await cri.remove_pod(pod)


async def test_nothing_is_left_however_often_either_daemon_is_killed(world: tuple[Engine, Cribd]) -> None:
    engine, cribd = world
    moments = random.Random(11)
    for number in range(ROUNDS):
        running = [asyncio.ensure_future(come_and_go(cribd, pod)) for pod in range(PODS)]
        await asyncio.sleep(moments.uniform(0.2, LONGEST_LIFE))  # the kill comes at another moment each time
        if number % 3 != 1:
            await asyncio.to_thread(cribd.kill)
        if number % 3 != 0:
            await asyncio.to_thread(engine.kill)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        if number % 3 != 0:
            await asyncio.to_thread(engine.start)
        if number % 3 != 1:
            await asyncio.to_thread(cribd.start)
    async with cribd.connect() as cri:
        for pod in await cri.sandboxes():
            await cri.remove_pod(pod)
        containers = await cri.containers()
    assert not containers
    await asyncio.to_thread(cribd.stop)
    cribd.wipe()
    assert engine.count() == (0, 0)
