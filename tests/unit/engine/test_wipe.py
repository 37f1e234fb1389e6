"""Wipes: by kind, dry, and of a node without a daemon."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

import pytest

from crib.model.errors import WrongState
from crib.model.finding import Wiped, WipeOrder
from crib.model.ids import ContainerId
from crib.model.settings import Settings
from tests.fakes.settings import image_settings
from tests.fakes.world import World, bounded

EVERYTHING = frozenset({"pods", "network", "images", "layers"})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(Settings(images=image_settings(pull_linger=0.0)))
    made.networks.shared = "bridge crib0 and its rules"
    await made.start()
    yield made
    await made.close()


async def wiped(world: World, *kinds: str, dry: bool = False, force: bool = False) -> list[Wiped]:
    order = WipeOrder(frozenset(kinds), dry=dry, force=force)
    async with bounded():
        return [one async for one in world.node.wipe(order)]


async def wiped_offline(world: World, *kinds: str, dry: bool = False) -> list[Wiped]:
    await world.restarted(start=False)
    async with bounded():
        await world.node.load()
        return [one async for one in world.node.wipe.offline(WipeOrder(frozenset(kinds), dry=dry))]


async def test_a_wipe_of_everything_removes_pods_network_and_images(world: World) -> None:
    await world.running(await world.pod())
    told = await wiped(world, *EVERYTHING, force=True)
    assert {one.kind for one in told} == {"pods", "network", "images"}
    assert not any(one.problem for one in told)
    assert (world.records.sandboxes, world.records.images, world.images.layers) == ({}, {}, set())
    assert world.networks.dismantled
    assert not world.handler.dismantled, "the daemon goes on and needs what its pods share"


async def test_a_dry_wipe_tells_the_same_and_removes_nothing(world: World) -> None:
    await world.running(await world.pod())
    before = dict(world.records.sandboxes), dict(world.records.images)
    dry = await wiped(world, *EVERYTHING, dry=True)
    assert (world.records.sandboxes, world.records.images) == before
    assert not world.networks.dismantled
    assert dry == await wiped(world, *EVERYTHING, force=True)


async def test_containers_that_run_are_wiped_by_force_only(world: World) -> None:
    container = await world.running(await world.pod(), "precious")
    for kind in ("pods", "containers"):
        with pytest.raises(WrongState, match="precious"):
            await wiped(world, kind)
    assert container in world.records.containers
    await wiped(world, "images")  # touches none of them


async def test_a_wipe_of_containers_leaves_their_pods(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    (one,) = await wiped(world, "containers", force=True)
    assert container in one.name
    assert (list(world.records.sandboxes), world.records.containers) == ([pod], {})


async def test_a_pod_that_cannot_be_removed_is_told_and_keeps_no_other(world: World) -> None:
    await world.pod()
    other = await world.pod("other")
    world.handler.failpoints.set("remove_pod=1*error(busy)")
    told = await wiped(world, "pods")
    assert [("busy" in one.problem) for one in told] == [True, False]
    assert other not in world.records.sandboxes


async def test_an_offline_wipe_removes_every_pod_and_what_pods_share(world: World) -> None:
    await world.pod()
    await world.running(await world.pod("other"))
    told = await wiped_offline(world, "pods", "network")
    assert not any(one.problem for one in told), told
    assert world.records.sandboxes == {}
    shared = (world.handler.dismantled, world.networks.dismantled, world.images.dismantled)
    assert shared == (True, True, True)
    assert world.records.images, "they were not asked for"


async def test_an_offline_wipe_that_cannot_remove_a_pod_leaves_what_pods_share(world: World) -> None:
    await world.pod()
    world.networks.failpoints.set("detach=9*error(busy)")
    told = await wiped_offline(world, "pods", "network")
    assert "busy" in told[0].problem
    assert not world.networks.dismantled
    assert not world.handler.dismantled


async def test_mounts_of_layers_that_cannot_be_undone_do_not_keep_images(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy() -> None:
        raise OSError(errno.EBUSY, "it is in use", "/layers")

    await world.running(await world.pod())
    monkeypatch.setattr(world.images, "dismantle", busy)
    told = await wiped_offline(world, "pods", "images")
    assert [one.name for one in told if one.problem] == ["mounts of layers"]
    assert world.records.images == {}


async def test_what_the_kernel_refuses_keeps_nothing_else_from_an_offline_wipe(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", "/data/layers")

    await world.running(await world.pod())
    for name in ("sweep", "dismantle"):
        monkeypatch.setattr(type(world.handler), name, refused)
    told = await wiped_offline(world, "pods", "network", "images")
    assert world.records.sandboxes == {}
    assert [one.problem for one in told if "/data/layers" in one.problem] != []
    assert world.records.images == {}


async def test_an_offline_wipe_goes_by_what_lies_about_where_the_records_are_lost(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    world.records.sandboxes.clear()
    world.records.containers.clear()
    dry = await wiped_offline(world, "pods", "network", dry=True)
    assert {f"container {container}", f"sandbox {pod}"} <= {one.name for one in dry}
    assert world.handler.host.pods
    await wiped_offline(world, "pods", "network")
    assert (world.handler.host.pods, world.handler.host.containers, world.networks.held) == ({}, {}, {})
    assert world.handler.dismantled


async def test_an_offline_wipe_removes_containers_whose_pod_is_not_on_record(world: World) -> None:
    container = await world.running(pod := await world.pod())
    del world.records.sandboxes[pod]
    told = await wiped_offline(world, "pods")
    assert any(container in one.name for one in told)
    assert world.records.containers == dict[ContainerId, object]()


async def test_a_sweep_that_fails_keeps_no_other_from_an_offline_wipe(world: World) -> None:
    pod = await world.pod()
    await world.running(pod)
    world.records.sandboxes.clear()
    world.records.containers.clear()
    await world.restarted(start=False)
    world.handler.failpoints.set("sweep=error(no descriptor left)")
    async with bounded():
        await world.node.load()
        told = [one async for one in world.node.wipe.offline(WipeOrder(frozenset({"pods", "network"})))]
    assert world.networks.held == {}
    problems = {one.name: one.problem for one in told}
    assert problems["what belongs to no record, of handler crun"] == "no descriptor left"
    assert problems[f"address 10.1.0.2 of pod {pod}"] == ""
