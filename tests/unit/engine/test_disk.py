"""What takes how much of the disk, and what of it could be had back."""

from __future__ import annotations

from crib.model.disk import ImageUse
from tests.fakes.images import digest_of, made_image
from tests.fakes.world import IMAGE, World

OTHER = "docker.io/library/other:1"


async def test_layers_are_told_as_shared_or_own_and_by_who_needs_them(world: World) -> None:
    world.images.publish(OTHER, made_image("other", "base", "top"))
    await world.running(await world.pod())
    await world.pull(OTHER)
    use = await world.node.disk_usage()
    layers = {one.diff_id: one for one in use.layers}
    base, top = layers[digest_of("base")], layers[digest_of("top")]
    assert (base.images, base.containers, base.is_reclaimable) == (2, 1, False)
    assert (top.images, top.containers, top.is_reclaimable) == (1, 0, True)
    images = {one.names[0]: one for one in use.images}
    assert _sizes(images[IMAGE]) == (1000, 0, 1)
    assert _sizes(images[OTHER]) == (2000, 1000, 0)


def _sizes(image: ImageUse) -> tuple[int, int, int]:
    return image.size, image.own, image.containers


async def test_what_a_pinned_image_has_cannot_be_had_back(world: World) -> None:
    record = await world.pull(IMAGE)
    assert [one.is_reclaimable for one in (await world.node.disk_usage()).layers] == [True]
    world.node._catalogue._pinned = (IMAGE,)  # as images.pinned has it
    await world.node.images.remove(record.id)
    await world.pull(IMAGE)
    assert [one.is_reclaimable for one in (await world.node.disk_usage()).layers] == [False]


async def test_containers_are_told_with_what_they_have_written(world: World) -> None:
    container = await world.running(await world.pod())
    (use,) = (await world.node.disk_usage()).containers
    assert (use.id, use.pod, use.name, use.has_ended) == (container, "default/web", "app", False)
    assert (use.writable, use.inodes) == (4096, 1)
    await world.node.containers.stop(container, 0)
    (use,) = (await world.node.disk_usage()).containers
    assert use.has_ended


async def test_a_disk_that_does_not_answer_for_one_leaves_it_unknown(world: World) -> None:
    await world.running(await world.pod())
    world.handler.failpoints.set("container_usage=error(it hangs)")
    (use,) = (await world.node.disk_usage()).containers
    assert use.writable is None
