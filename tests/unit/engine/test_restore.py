"""Containers and pods that are made from checkpoints, over fakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from crib.engine.sandboxes.checkpoint import RestoreOrder
from crib.model.checkpoint_settings import CheckpointSettings
from crib.model.container import ContainerConfig, ContainerSecurity, ContainerState
from crib.model.errors import AlreadyExists, Broken, InvalidRequest, NotFound, TimedOut, WrongState
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.sandbox import NamespaceMode, NamespaceOptions
from crib.model.settings import Settings
from tests.fakes.images import made_image
from tests.fakes.world import IMAGE, World, bounded, container_config, pod_config

PLACE = "/checkpoints/one.tar"
OWN_PIDS = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER))
LONG = 60.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(Settings(checkpoints=CheckpointSettings(restore=True)))
    await made.start()
    yield made
    await made.close()


def config(name: str = "app", image: str = IMAGE) -> ContainerConfig:
    return replace(container_config(name, image=image), security=OWN_PIDS)


async def running(world: World, pod: SandboxId, name: str = "app") -> ContainerId:
    await world.pulled()
    container = await world.node.containers.create(pod, config(name))
    await world.node.containers.start(container)
    return container


@pytest.fixture
async def archive(world: World) -> str:
    await world.node.containers.checkpoint(await running(world, await world.pod("old")), PLACE, 0)
    return PLACE


async def test_one_from_an_archive_waits_for_its_start_and_runs_then(world: World, archive: str) -> None:
    pod = await world.pod("new")
    container = await world.node.containers.create(pod, config(image=archive))
    row = world.node.containers.get(container)
    image = world.node.images.status(IMAGE)
    assert image is not None
    assert (row.state, row.process, row.restored_from) == (ContainerState.CREATED, None, archive)
    assert (row.config.image, row.image_id) == (archive, image.id)
    await world.node.containers.start(container)
    row = world.node.containers.get(container)
    assert row.state is ContainerState.RUNNING
    assert row.process is not None
    assert row.process == world.inside(container).process


async def test_one_that_waits_is_kept_by_the_next_daemon(world: World, archive: str) -> None:
    container = await world.node.containers.create(await world.pod("new"), config(image=archive))
    again = await world.restarted()
    assert again.node.containers.get(container).awaits_restore
    await again.node.containers.start(container)
    assert again.node.containers.get(container).process is not None


async def test_one_that_waits_is_stopped_at_once(world: World, archive: str) -> None:
    container = await world.node.containers.create(await world.pod("new"), config(image=archive))
    async with bounded():
        await world.node.containers.stop(container, 10)
    row = world.node.containers.get(container)
    assert (row.state, row.exit_code) == (ContainerState.EXITED, 137)
    with pytest.raises(WrongState):
        await world.node.containers.start(container)


async def test_a_restore_that_fails_is_told_and_the_container_has_ended(world: World, archive: str) -> None:
    container = await world.node.containers.create(await world.pod("new"), config(image=archive))
    world.handler.failpoints.set("start=1*error(criu: no such file)")
    with pytest.raises(Broken, match="no such file"):
        await world.node.containers.start(container)
    assert world.node.containers.get(container).reason == "StartError"


async def test_restoring_is_off_unless_the_node_allows_it() -> None:
    world = World()
    await world.start()
    pod = await world.pod()
    with pytest.raises(WrongState, match=r"checkpoints\.restore is off"):
        await world.node.containers.create(pod, config(image=PLACE))
    with pytest.raises(WrongState, match=r"checkpoints\.restore is off"):
        await world.node.restore_pod(order(), later())
    assert [row.id for row in world.node.containers.list()] == []
    await world.close()


async def test_an_archive_of_an_image_that_is_not_here_pulls_nothing(world: World, archive: str) -> None:
    packed = world.handler.host.archives[archive]
    other = replace(
        packed.record, image_id=ImageId("sha256:" + "0" * 64), config=config(image="docker.io/other/one:1")
    )
    world.handler.host.archives[archive] = replace(packed, record=other)
    names = {tag for image in world.node.images.list() for tag in image.tags}
    pulls = len(world.images.orders)
    with pytest.raises(NotFound, match="other/one:1"):
        await world.node.containers.create(await world.pod("new"), config(image=archive))
    assert len(world.images.orders) == pulls
    assert {tag for image in world.node.images.list() for tag in image.tags} == names


async def test_what_would_share_its_process_ids_is_not_restored(world: World, archive: str) -> None:
    with pytest.raises(WrongState, match="share its process ids"):
        await world.node.containers.create(await world.pod("new"), container_config(image=archive))


# pods


def later() -> float:
    """A deadline that no test comes to."""
    return time.monotonic() + LONG


def order(*configs: ContainerConfig, pod: str = "new") -> RestoreOrder:
    wanted = configs or (config("one"), config("two"))
    return RestoreOrder("/checkpoints/pod", pod_config(pod), "", wanted)


async def saved_pod(world: World) -> SandboxId:
    pod = await world.pod("old")
    wanted = [await running(world, pod, "one"), await running(world, pod, "two")]
    await world.node.sandboxes.checkpoint(pod, "/checkpoints/pod", wanted, later())
    return pod


async def test_containers_of_a_pod_are_paused_together_and_restored_in_another(world: World) -> None:
    await saved_pod(world)
    names = world.handler.failpoints.names()
    first = names.index("pause")
    steps = ("pause", "pause", "capture", "capture", "resume", "resume", "pack", "pack", "publish", "publish")
    assert tuple(names[first : first + len(steps)]) == steps
    assert set(world.handler.host.archives) == {"/checkpoints/pod/one.tar", "/checkpoints/pod/two.tar"}
    restored = await world.node.restore_pod(order(), later())
    assert [name for name, _ in restored.containers] == ["one", "two"]
    for _, container in restored.containers:
        assert world.node.containers.get(container).sandbox_id == restored.id
        assert world.node.containers.get(container).awaits_restore
        await world.node.containers.start(container)


@pytest.mark.parametrize("step", ["pause", "capture", "pack", "publish"])
async def test_a_pod_is_saved_whole_or_not_at_all(world: World, step: str) -> None:
    pod = await world.pod("old")
    wanted = [await running(world, pod, "one"), await running(world, pod, "two")]
    world.handler.failpoints.set(f"{step}=1*error(no)", subject=wanted[1])
    with pytest.raises(Broken, match="no"):
        await world.node.sandboxes.checkpoint(pod, "/checkpoints/pod", wanted, later())
    assert world.handler.host.archives == {}
    assert not any(world.inside(one).paused for one in wanted)


async def test_containers_that_cannot_be_of_a_checkpoint_of_the_pod_are_refused(world: World) -> None:
    pod, other = await world.pod("old"), await world.pod("other")
    one, foreign = await running(world, pod, "one"), await running(world, other, "two")
    created = await world.node.containers.create(pod, config("created"))
    for wanted in ([one, foreign], [one, one], [one, created]):
        with pytest.raises((InvalidRequest, WrongState)):
            await world.node.sandboxes.checkpoint(pod, "/checkpoints/pod", wanted, later())
    assert "pause" not in world.handler.failpoints.names()


async def test_a_pod_that_is_restored_must_have_the_containers_of_the_checkpoint(world: World) -> None:
    await saved_pod(world)
    for wanted in ([config("one")], [config("one"), config("one")], [config("one"), config("three")]):
        with pytest.raises(InvalidRequest) as refused:
            await world.node.restore_pod(order(*wanted), later())
        assert refused.value.field == "container_configs"
    with pytest.raises(AlreadyExists):
        await world.node.restore_pod(order(pod="old"), later())


async def test_a_container_of_another_image_is_refused_and_nothing_of_the_pod_is_left(world: World) -> None:
    await saved_pod(world)
    world.images.publish("docker.io/library/other:1", made_image("other", "b"))
    await world.pulled("docker.io/library/other:1")
    before = [row.id for row in world.node.sandboxes.list()]
    wanted = order(config("one"), config("two", "docker.io/library/other:1"))
    with pytest.raises(InvalidRequest) as refused:
        await world.node.restore_pod(wanted, later())
    assert refused.value.field == "container_configs[1].image.image"
    assert [row.id for row in world.node.sandboxes.list()] == before


async def test_a_pod_that_is_not_restored_in_time_leaves_nothing(world: World) -> None:
    await saved_pod(world)
    before = [row.id for row in world.node.sandboxes.list()]
    hold = world.handler.failpoints.hold("inspect")
    asked = asyncio.ensure_future(world.node.restore_pod(order(), time.monotonic() + 0.2))
    async with bounded():
        await hold.reached.wait()
        with pytest.raises(TimedOut):
            await asked
    hold.release.set()
    assert [row.id for row in world.node.sandboxes.list()] == before
