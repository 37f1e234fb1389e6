"""Records that cannot be written: what ends or goes does so, nothing new is made, and it heals by itself."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable

import pytest

from crib.engine.images.verbs import StoreGate
from crib.model.container import ContainerState, ExecCommand
from crib.model.errors import Unavailable
from crib.model.ids import ContainerId, SandboxId
from crib.model.sandbox import Resources, SandboxState
from tests.fakes.world import IMAGE, World, bounded, container_config, next_events, until

FULL = "crib.db: its disk is full"


Verb = Callable[[World, SandboxId, ContainerId], Awaitable[object]]
MAKING: dict[str, Verb] = {
    "run": lambda world, pod, container: world.pod("other"),
    "create": lambda world, pod, container: world.created(pod, "other"),
    "start": lambda world, pod, container: world.node.containers.start(container),
    "update": lambda world, pod, container: world.node.containers.update(container, Resources(cpu_shares=2)),
    "update pod": lambda world, pod, container: world.node.sandboxes.update(pod, Resources(), None),
    "pull": lambda world, pod, container: world.pulled(),
}


@pytest.mark.parametrize("verb", MAKING.values(), ids=MAKING.keys())
async def test_while_records_cannot_be_written_nothing_is_made_and_the_reason_is_told(
    world: World, verb: Verb
) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    before = (dict(world.handler.host.pods), dict(world.handler.host.containers))
    world.records.breaks(FULL)
    with pytest.raises(Unavailable, match=f"records: {FULL}"):
        await verb(world, pod, container)
    assert (world.handler.host.pods, world.handler.host.containers) == before
    assert world.inside(container).status == "created"
    world.records.heals()
    await verb(world, pod, container)


async def test_a_retry_of_what_was_made_before_is_answered_still(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    world.records.breaks(FULL)
    assert await world.pod() == pod
    assert await world.created(pod) == container


async def test_status_says_that_the_node_is_not_ready_for_as_long_as_it_lasts(world: World) -> None:
    world.records.breaks(FULL)
    status = await world.node.status()
    assert (status.runtime.ready, status.runtime.reason) == (False, "NodeFault")
    assert FULL in status.runtime.message
    world.records.heals()
    assert (await world.node.status()).runtime.ready
    assert [notice.text for notice in world.node._core.notices] == [f"{FULL}; that has ended"]


@pytest.mark.parametrize("verb", ["run", "create"])
async def test_a_row_that_cannot_be_written_makes_nothing_and_leaves_nothing(world: World, verb: str) -> None:
    pod = await world.pod()
    await world.pulled()
    world.records.next_problem = FULL
    with pytest.raises(Unavailable, match=FULL):
        await (world.pod("other") if verb == "run" else world.created(pod))
    assert (list(world.handler.host.pods), world.handler.host.containers) == ([pod], {})
    assert len(list(world.node.sandboxes.list())) == 1
    world.records.heals()
    assert (list(world.records.sandboxes), world.records.containers) == ([pod], {})


async def test_stop_kill_exit_remove_exec_and_lists_go_on_and_are_recorded_when_it_heals(
    world: World,
) -> None:
    pod, other = await world.pod(), await world.pod("other")
    stopped, ended = await world.running(pod, "one"), await world.running(pod, "two")
    await world.running(other)
    world.records.breaks(FULL)
    subscription = world.node.events.subscribe()
    async with bounded():
        await world.node.containers.exec_sync(stopped, ExecCommand(("true",)))
        await world.node.containers.stop(stopped, 0)
        world.handler.host.finish(ended, 4)
        await until(lambda: world.node.containers.get(ended).exit_code == 4)
        await world.node.containers.remove(stopped)
        await world.node.sandboxes.stop(pod)
        await world.node.sandboxes.remove(other)
    assert [row.id for row in world.node.sandboxes.list()] == [pod]
    assert [row.id for row in world.node.containers.list()] == [ended]
    assert world.node.sandboxes.get(pod).state is SandboxState.NOT_READY
    assert len(await next_events(subscription, 5)) == 5
    assert len(world.records.containers) == 3
    world.records.heals()
    assert list(world.records.containers) == [ended]
    assert world.records.containers[ended].state is ContainerState.EXITED
    assert list(world.records.sandboxes) == [pod]


async def test_a_start_on_record_in_memory_only_is_found_to_run_and_never_runs_twice(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    hold = world.handler.failpoints.hold("start")
    starting = asyncio.ensure_future(world.node.containers.start(container))
    async with bounded():
        await hold.reached.wait()
        world.records.breaks(FULL)
        hold.release.set()
        await starting
    assert world.records.containers[container].state is ContainerState.CREATED
    world.records.problem = ""  # room again, but the daemon is killed before it has noticed
    await world.restarted()
    assert world.node.containers.get(container).state is ContainerState.RUNNING
    await world.node.containers.start(container)
    assert await world.created(pod) == container
    assert len(world.handler.host.containers) == 1


async def test_what_a_killed_daemon_removed_without_a_record_can_be_removed_again(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    world.records.breaks(FULL)
    await world.node.containers.remove(container)
    world.records.problem = ""
    await world.restarted()
    assert world.node.containers.get(container).state is ContainerState.EXITED
    second = await world.node.containers.create(pod, container_config(attempt=1))
    await world.node.containers.remove(container)
    assert list(world.records.containers) == [second]


async def test_a_daemon_that_starts_on_a_broken_disk_shows_what_there_is_and_lets_it_go(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    world.records.breaks(FULL)
    await world.restarted()
    assert world.node.containers.get(container).state is ContainerState.RUNNING
    assert not (await world.node.status()).runtime.ready
    await world.node.sandboxes.remove(pod)
    assert (world.handler.host.pods, world.handler.host.containers) == ({}, {})


async def test_an_image_goes_from_a_disk_that_takes_no_row_and_so_do_its_layers(world: World) -> None:
    await world.pulled()
    world.records.breaks(FULL)
    await world.node.images.remove(IMAGE)
    assert await world.images.present() == set()
    assert world.node.images.status(IMAGE) is None


async def test_after_rows_of_images_were_lost_no_layer_goes_that_may_be_theirs(world: World) -> None:
    await world.pulled()
    layers = set(await world.images.present())
    assert layers
    world.records.images.clear()
    world.records.lost_images = ("file images.db.broken-1: database disk image is malformed",)
    await world.restarted()
    await world.node.images.sweep()
    assert set(await world.images.present()) == layers
    (notice,) = world.node._core.notices
    assert "images.db.broken-1" in notice.text
    world.records.lost_images = ()
    await world.restarted()
    assert set(await world.images.present()) == set()


async def test_a_sweep_that_the_disk_refuses_fails_no_verb(caplog: pytest.LogCaptureFixture) -> None:
    async def refused() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/var/lib/crib/staging")

    tries: list[str] = []
    await StoreGate(refused, lambda: tries.append("again")).sweep()
    assert "Read-only file system: '/var/lib/crib/staging'" in caplog.text
    assert tries == ["again"]
