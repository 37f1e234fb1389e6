"""Pre-pulls, archives at start, garbage collection, checks and repairs, exports."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crib.engine.images import upkeep
from crib.model.errors import NotFound
from crib.model.ids import Digest
from crib.model.image import DiskSpace, Platform
from crib.model.registry import AuthConfig
from crib.model.settings import Settings
from tests.fakes.images import digest_of, made_image
from tests.fakes.settings import image_settings
from tests.fakes.world import IMAGE, World, bounded, container_config, order, until


async def started(**settings: object) -> World:
    world = World(Settings(images=image_settings(**settings)))
    await world.start()
    return world


async def test_images_of_the_configuration_are_pulled_at_start_and_archives_imported() -> None:
    world = await started(prepull=(IMAGE, "saved:1"))
    world.images.archives["/in/saved.tar"] = (
        replace(made_image("saved", "layer"), names=("docker.io/library/saved:1",)),
    )
    try:
        world.node.images.upkeep.begin(["/in/broken.tar", "/in/saved.tar"])
        await until(lambda: world.node.images.status(IMAGE) is not None)
        assert world.node.images.status("saved:1") is not None
        assert [str(one.reference) for one in world.images.orders] == [IMAGE]
    finally:
        await world.close()


async def test_a_pre_pull_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crib.engine.images.upkeep.FIRST_PAUSE", 0.0)
    world = await started(prepull=(IMAGE,))
    world.images.failpoints.set("pull=3*unavailable(registry is away)")
    try:
        world.node.images.upkeep.begin([])
        await until(lambda: world.node.images.status(IMAGE) is not None)
        assert len(world.images.orders) == 4
    finally:
        await world.close()


async def test_a_layer_that_somebody_removes_is_missed_without_a_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crib.engine.images.upkeep.LOOK_INTERVAL", 0.0)
    world = await started()
    try:
        await world.pull(IMAGE)
        world.images.layers.clear()
        world.images.failpoints.set("present=2*unavailable(the disk is away)")
        world.node.images.upkeep.begin([])
        await until(lambda: world.node.images.status(IMAGE) is None)
        assert list(world.node.images.list()) == []
        await world.pull(IMAGE)
        assert world.node.images.status(IMAGE) is not None
    finally:
        await world.close()


async def collected(world: World) -> list[str]:
    async with bounded():
        return [row.tags[0] for row in await world.node.images.upkeep.collect()]


async def test_garbage_goes_above_the_high_mark_the_longest_unused_first() -> None:
    world = await started(gc_high=90, gc_low=80, gc_min_age=10, pinned=("docker.io/library/pinned:*",))
    try:
        for name in ("used", "pinned", "old", "new", "fresh"):
            world.clock.advance(100)
            world.images.publish(name, made_image(name, name))
            await world.pull(name)
        pod = await world.pod()
        await world.created(pod)  # of another image
        container = await world.node.containers.create(pod, container_config("c", image="used"))
        assert container
        world.images.disk = DiskSpace(100, 11)
        assert await collected(world) == []
        world.images.disk = DiskSpace(100, 5)
        gone = await collected(world)
        assert gone == ["docker.io/library/old:latest", "docker.io/library/new:latest"]
        assert world.node.images.status("pinned") is not None
        assert world.node.images.status("fresh") is not None  # it came less than gc_min_age ago
    finally:
        await world.close()


async def test_garbage_is_collected_again_after_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def broken() -> DiskSpace:
        nonlocal looks
        looks += 1
        raise ZeroDivisionError("a bug")

    world = await started(gc_high=90, gc_low=80)
    try:
        monkeypatch.setattr(upkeep, "COLLECT_INTERVAL", 0.0)
        monkeypatch.setattr(world.images, "space", broken)
        world.node.images.upkeep.begin([])
        await until(lambda: looks > 1)
    finally:
        await world.close()


async def test_garbage_collection_stops_at_the_low_mark() -> None:
    world = await started(gc_high=90, gc_low=80, gc_min_age=0)
    try:
        for name in ("one", "two"):
            world.clock.advance(1)
            world.images.publish(name, made_image(name, name))
            await world.pull(name)
        world.clock.advance(1)
        world.images.disk = DiskSpace(100, 5)
        world.images.disk_after_sweep = DiskSpace(100, 50)
        assert await collected(world) == ["docker.io/library/one:latest"]
    finally:
        await world.close()


async def check(world: World, *names: str, repair: bool = False) -> dict[Digest, tuple[str, bool, str]]:
    async with bounded():
        return {
            found.layer: (found.problem, found.repaired, found.repair_error)
            async for found in world.node.images.check(names, repair=repair)
        }


async def test_every_layer_is_checked_once_and_damage_is_told_with_its_images(world: World) -> None:
    world.images.publish("a:1", made_image("a", "base", "a"))
    world.images.publish("b:1", made_image("b", "base", "b"))
    for name in ("a:1", "b:1"):
        await world.pull(name)
    world.images.damaged.add(digest_of("base"))
    found = [one async for one in world.node.images.check([], repair=False)]
    assert [one.layer for one in found if one.problem] == [digest_of("base")]
    assert {one.layer for one in found} == {digest_of(word) for word in ("base", "a", "b")}
    (broken,) = (one for one in found if one.problem)
    assert broken.images == ("docker.io/library/a:1", "docker.io/library/b:1")
    assert set(await check(world, "b:1")) == {digest_of("base"), digest_of("b")}
    with pytest.raises(NotFound, match="nowhere"):
        await check(world, "nowhere")


async def test_a_damaged_layer_is_fetched_anew_by_digest(world: World) -> None:
    image = world.images.publish("a:1", made_image("a", "base"))
    await world.pull("a:1")
    world.images.damaged.add(digest_of("base"))
    found = await check(world, repair=True)
    assert found[digest_of("base")] == ("its data has another digest", True, "")
    assert world.images.orders[-1].again == {digest_of("base")}
    assert world.images.orders[-1].reference.digest == image.manifest_digest
    assert (await check(world))[digest_of("base")][0] == ""


async def test_a_layer_that_no_registry_is_known_for_cannot_be_repaired(world: World) -> None:
    image = replace(made_image("a", "base"), manifest_digest=None)
    world.images.publish("a:1", image)
    await world.pull("a:1")
    world.images.damaged.add(digest_of("base"))
    problem, repaired, why = (await check(world, repair=True))[digest_of("base")]
    assert (bool(problem), repaired) == (True, False)
    assert "import the image again" in why


async def test_an_export_has_the_documents_and_the_names_that_were_asked_for(world: World) -> None:
    image = made_image("a", "base")
    for name in ("a:1", "a:2", "b:1"):
        world.images.publish(name, image)
        await world.pull(name)
    async with bounded():
        size = await world.node.images.export("/out.tar", ["a:1", "b:1"], "oci")
        await world.node.images.export("/all.tar", [image.id], "docker")
    assert size == 1000
    path, (exported,), archive_format = world.images.exported[0]
    assert (path, archive_format) == ("/out.tar", "oci")
    assert exported.tags == ("docker.io/library/a:1", "docker.io/library/b:1")
    assert len(world.images.exported[1][1][0].tags) == 3
    with pytest.raises(NotFound, match="nowhere"):
        await world.node.images.export("/x.tar", ["nowhere"], "oci")


async def test_other_credentials_or_another_platform_are_another_pull(world: World) -> None:
    hold = world.images.failpoints.hold("pull")
    orders = [
        order(IMAGE),
        replace(order(IMAGE), auth=AuthConfig(username="a", password="b")),
        replace(order(IMAGE), platform=Platform("arm64", "linux")),
    ]
    pulls = [asyncio.ensure_future(world.node.images.pull(one)) for one in (*orders, orders[1])]
    async with bounded():
        await until(lambda: len(world.images.orders) == 3)
        hold.release.set()
        await asyncio.gather(*pulls)
    assert len(world.images.orders) == 3
