"""Other settings hold from one moment to the next: what is made of them is made anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from crib.engine.containers import rotation
from crib.model.errors import WrongState
from crib.model.image import PullOrder, parse_reference
from crib.model.image_settings import ImagePolicy
from crib.model.settings import NetworkSettings, Settings
from tests.fakes.settings import image_settings
from tests.fakes.world import IMAGE, World, until


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.start()
    yield world
    await world.close()


def services(world: World) -> set[str]:
    return {task.get_name() for task in world.node.keeper._services}


async def test_every_part_of_a_node_is_given_the_settings(world: World) -> None:
    settings = Settings(pids_limit=5)
    world.node.adapt(settings)
    assert world.node.settings is settings
    assert [world.handler.adapted, world.networks.adapted, world.images.adapted] == [settings] * 3


async def test_images_are_pinned_and_let_go_by_the_patterns_of_now(world: World) -> None:
    await world.node.images.pull(PullOrder(parse_reference(IMAGE)))
    for patterns in (("docker.io/*",), ()):
        world.node.adapt(Settings(images=image_settings(pinned=patterns)))
        assert [image.pinned for image in world.node.images.list()] == [bool(patterns)]


async def test_the_policy_of_now_judges_the_next_pull(world: World) -> None:
    order = PullOrder(parse_reference(IMAGE))
    world.node.adapt(Settings(images=image_settings(policy=(ImagePolicy("*", "reject"),))))
    with pytest.raises(WrongState, match="it rejects this image"):
        await world.node.images.pull(order)
    world.node.adapt(Settings(images=image_settings()))
    await world.node.images.pull(order)


async def test_there_are_as_many_places_as_the_settings_say(world: World) -> None:
    world.node.adapt(Settings(making_verbs=3))
    assert world.node.admission.load.places == 3


async def test_periodic_work_begins_and_ends_with_the_settings_that_ask_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "INTERVAL", 0.0)
    names = {"checks of networks", "rotate logs"}
    assert not names & services(world)
    wanted = Settings(log_size_max=1 << 20, network=NetworkSettings(check_interval=3600))
    for _ in range(2):
        world.node.adapt(wanted)
        assert names <= services(world)
        world.node.adapt(replace(wanted, log_size_max=0, network=NetworkSettings()))
        await until(lambda: not names & services(world))
