"""CheckpointContainer over fakes: the container goes on, and an archive is whole or not there."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crib.model.container import ContainerSecurity
from crib.model.errors import Broken, CribError, NotBuilt, NotFound, TimedOut, WrongState
from crib.model.ids import ContainerId
from crib.model.sandbox import NamespaceMode, NamespaceOptions
from tests.fakes.world import World, bounded, container_config, until

PLACE = "/checkpoints/one.tar"
STEPS = ("pause", "capture", "resume", "pack", "publish")
OWN_PIDS = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER))


async def running(world: World, name: str = "app") -> ContainerId:
    """A container with process ids of its own, in a pod of its own."""
    await world.pulled()
    pod = await world.pod(f"pod-of-{name}")
    container = await world.node.containers.create(pod, replace(container_config(name), security=OWN_PIDS))
    await world.node.containers.start(container)
    return container


async def test_a_checkpoint_is_an_archive_of_a_container_that_goes_on(world: World) -> None:
    container = await running(world)
    await world.node.containers.checkpoint(container, PLACE, 0)
    packed = world.handler.host.archives[PLACE]
    assert (packed.record.id, packed.location) == (container, PLACE)
    assert world.handler.failpoints.names()[-7:] == [
        "pause",
        "capture",
        "resume",
        "pack",
        "publish",
        "discard",
        "resume",
    ]
    assert not world.inside(container).paused
    assert world.node.containers.get(container).checkpointing == ""


@pytest.mark.parametrize("step", STEPS)
async def test_whatever_fails_the_container_goes_on_and_nothing_is_left(world: World, step: str) -> None:
    container = await running(world)
    world.handler.failpoints.set(f"{step}=1*error(no)")
    with pytest.raises(Broken, match="no"):
        await world.node.containers.checkpoint(container, PLACE, 0)
    assert not world.inside(container).paused
    assert (world.handler.host.archives, world.handler.host.captured) == ({}, set())
    assert world.node.containers.get(container).checkpointing == ""


@pytest.mark.parametrize("step", STEPS)
async def test_the_next_daemon_ends_what_a_killed_one_was_at(world: World, step: str) -> None:
    container = await running(world)
    hold = world.handler.failpoints.hold(step)
    asked = asyncio.ensure_future(world.node.containers.checkpoint(container, PLACE, 0))
    async with bounded():
        await hold.reached.wait()
    for name in ("resume", "discard"):  # a killed daemon does neither
        world.handler.failpoints.set(f"{name}=error(killed)")
    again = await world.restarted()
    await until(lambda: again.node.containers.get(container).checkpointing == "")
    assert not again.inside(container).paused
    assert (again.handler.host.archives, again.handler.host.captured) == ({}, set())
    asked.cancel()


async def test_what_cannot_be_undone_is_tried_again_and_the_archive_is_there_all_the_same(
    world: World,
) -> None:
    container = await running(world)
    world.handler.failpoints.set("discard=1*error(the disk does not answer)")
    await world.node.containers.checkpoint(container, PLACE, 0)
    assert PLACE in world.handler.host.archives
    assert world.node.containers.get(container).checkpointing == PLACE
    again = await world.restarted()
    await until(lambda: again.node.containers.get(container).checkpointing == "")


async def test_the_time_of_the_caller_counts_and_no_archive_comes_after_it(world: World) -> None:
    container = await running(world)
    with pytest.raises(TimedOut):
        await world.node.containers.checkpoint(container, PLACE, 1e-9)
    assert not world.inside(container).paused
    assert world.handler.host.archives == {}


async def test_a_stop_waits_for_the_checkpoint_and_comes_then(world: World) -> None:
    container = await running(world)
    hold = world.handler.failpoints.hold("capture")
    asked = asyncio.ensure_future(world.node.containers.checkpoint(container, PLACE, 0))
    async with bounded():
        await hold.reached.wait()
        stop = asyncio.ensure_future(world.node.containers.stop(container, 0))
        hold.release.set()
        await asyncio.gather(asked, stop)
    assert PLACE in world.handler.host.archives
    assert world.node.containers.get(container).finished_at


async def test_what_cannot_be_checkpointed_is_refused_by_name(world: World) -> None:
    pod = await world.pod()
    created, shared = await world.created(pod, "created"), await world.running(pod, "shared")
    container = await running(world, "other")
    checkpoint = world.node.containers.checkpoint
    with pytest.raises(WrongState, match="created"):
        await checkpoint(created, PLACE, 0)
    with pytest.raises(WrongState, match="shares its process ids"):
        await checkpoint(shared, PLACE, 0)
    with pytest.raises(NotFound):
        await checkpoint("missing", PLACE, 0)
    world.handler.checkpoint_problem = "criu was not found"
    with pytest.raises(WrongState, match="support not available: criu was not found"):
        await checkpoint(container, PLACE, 0)
    world.handler.checkpoints = None
    with pytest.raises(NotBuilt, match="support not available"):
        await checkpoint(container, PLACE, 0)


async def test_a_faulty_node_makes_no_checkpoint(world: World) -> None:
    container = await running(world)
    world.node.notices.fault("records", "the disk is read-only")
    with pytest.raises(CribError, match="read-only"):
        await world.node.containers.checkpoint(container, PLACE, 0)
