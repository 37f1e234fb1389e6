"""Images that are mounted as volumes: found, accepted by the policy, held, and let go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.container import Mount
from crib.model.errors import (
    IMAGE_VOLUME_MOUNT_FAILED,
    SIGNATURE_VALIDATION_FAILED,
    InvalidRequest,
    NotFound,
    WrongState,
)
from crib.model.ids import ContainerId
from crib.model.image_settings import ImagePolicy
from crib.model.settings import Settings
from tests.fakes.images import digest_of, made_image
from tests.fakes.settings import image_settings
from tests.fakes.world import World, bounded, container_config, order

DATA = "registry.test/data:1"
VOLUME = Mount("/v", image=DATA, readonly=True)


async def created(world: World, *mounts: Mount) -> ContainerId:
    pod = await world.pod()
    await world.pulled()
    return await world.node.containers.create(pod, replace(container_config(), mounts=mounts))


async def with_data(world: World, *layers: str) -> None:
    world.images.publish(DATA, made_image("data", *layers))
    await world.node.images.pull(order(DATA))


async def test_a_container_holds_the_layers_of_its_image_volumes(world: World) -> None:
    await with_data(world, "one", "two")
    container = await created(world, Mount("/h", "/h"), VOLUME, replace(VOLUME, container_path="/w"))
    record = world.node.containers.get(container)
    assert [volume.mount for volume in record.image_volumes] == [1, 2]
    assert {volume.image_id for volume in record.image_volumes} == {made_image("data", "one", "two").id}
    assert record.held_layers == {digest_of("base"), digest_of("one"), digest_of("two")}
    await world.node.images.remove(DATA)
    assert digest_of("one") in world.images.layers
    async with bounded():
        await world.node.containers.remove(container)
        await world.node.images.sweep()
    assert world.images.layers == {digest_of("base")}


async def test_a_tag_that_moves_does_not_change_what_is_mounted(world: World) -> None:
    await with_data(world, "one")
    container = await created(world, VOLUME)
    await with_data(world, "other")
    (volume,) = world.node.containers.get(container).image_volumes
    assert volume.layers == (digest_of("one"),)


async def test_an_image_volume_that_is_not_here_is_named_and_leaves_nothing(world: World) -> None:
    with pytest.raises(NotFound, match=r"mounts\[0\]\.image.*registry\.test/data:1") as caught:
        await created(world, VOLUME)
    assert caught.value.reason == IMAGE_VOLUME_MOUNT_FAILED
    assert world.records.containers == {}


async def test_an_image_without_layers_is_no_volume(world: World) -> None:
    await with_data(world)
    with pytest.raises(InvalidRequest, match="no layers") as caught:
        await created(world, VOLUME)
    assert caught.value.reason == IMAGE_VOLUME_MOUNT_FAILED


async def test_the_image_policy_holds_for_image_volumes_too(world: World) -> None:
    await with_data(world, "one")
    await world.pulled()
    rule = ImagePolicy("registry.test/*", "reject")
    world.settings = Settings(images=image_settings(pull_linger=0.0, policy=(rule,)))
    await world.restarted()
    with pytest.raises(WrongState, match="refused by the image policy") as caught:
        await created(world, VOLUME)
    assert caught.value.reason == SIGNATURE_VALIDATION_FAILED
    assert await created(world, Mount("/h", "/h"))
