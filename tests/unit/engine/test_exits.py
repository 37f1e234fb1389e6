"""Exits are recorded for the daemon's life, whatever goes wrong meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from crib.engine.abandon import ABANDONED
from crib.engine.containers import exits
from crib.model.container import ContainerState, Exit
from crib.model.errors import Broken
from tests.fakes.world import World, until


@pytest.mark.parametrize("error", [Broken("no descriptor left"), ZeroDivisionError("a bug")])
async def test_a_watch_for_exits_that_fails_begins_again(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    container = await world.running(await world.pod())
    await world.restarted(start=False)
    watch, tries = world.handler.containers.exits, 0

    async def stream() -> AsyncIterator[Exit]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error
        async for one in watch():
            yield one

    monkeypatch.setattr(exits, "RETRY_AFTER", 0.0)
    monkeypatch.setattr(world.handler.containers, "exits", stream)
    await world.start()
    world.handler.host.finish(container, 3)
    await until(lambda: world.node.containers.get(container).state is ContainerState.EXITED)
    assert world.node.containers.get(container).exit_code == 3


async def test_an_exit_of_what_was_abandoned_leaves_the_reason_that_a_person_gave(world: World) -> None:
    container = await world.running(await world.pod())
    world.handler.failpoints.set("delete=error(busy)", subject=container)
    world.node.abandon(container, "its disk is gone")
    world.handler.host.finish(container, 3)
    await until(lambda: world.node.containers.get(container).state is ContainerState.EXITED)
    row = world.node.containers.get(container)
    assert (row.exit_code, row.reason, row.message) == (3, ABANDONED, f"{ABANDONED}: its disk is gone")
