"""The host shuts down: what runs ends in good time, and nobody takes that for its own end."""

from __future__ import annotations

import signal

from crib.model.container import ContainerState
from tests.fakes.world import World, bounded


async def test_what_runs_gets_its_stop_signal_and_is_still_on_record_as_running(world: World) -> None:
    container = await world.running(await world.pod())
    async with bounded():
        await world.node.end_with_host(60.0)
    assert world.inside(container).signals == [signal.SIGTERM]
    assert world.node.containers.get(container).state is ContainerState.RUNNING


async def test_what_is_deaf_to_it_is_killed_and_holds_up_no_other(world: World) -> None:
    pod = await world.pod()
    deaf, heeds = await world.running(pod, "deaf"), await world.running(pod, "heeds")
    world.inside(deaf).stubborn = True
    async with bounded():
        await world.node.end_with_host(0.01)
    assert world.inside(deaf).signals == [signal.SIGTERM, signal.SIGKILL]
    assert world.inside(heeds).signals == [signal.SIGTERM]


async def test_what_has_ended_or_never_began_is_left_alone(world: World) -> None:
    pod = await world.pod()
    created, ended = await world.created(pod, "created"), await world.running(pod, "ended")
    async with bounded():
        await world.node.containers.stop(ended, 60.0)
        await world.node.end_with_host(60.0)
    assert world.inside(created).signals == []
    assert world.inside(ended).signals == [signal.SIGTERM]
