"""ExplainContainer: whose records the handler is asked about, and what is refused before."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from crib.model.container import ContainerSecurity
from crib.model.errors import InvalidRequest, NotFound
from crib.model.explanation import NO_CONTAINER, NO_SANDBOX, PlannedContainer
from crib.model.ids import HandlerName
from tests.fakes.world import World, bounded, container_config, pod_config


def plan(world: World, **config: object) -> PlannedContainer:
    wanted = replace(container_config("app", "true"), **config)  # type: ignore[arg-type]
    return PlannedContainer(pod_config(), HandlerName(""), wanted)


async def test_a_container_is_explained_by_its_own_records(world: World) -> None:
    container = await world.running(await world.pod())
    async with bounded():
        told = await world.node.containers.explain(container[:12])
    record = world.node.containers.get(container)
    assert (told.container, told.sandbox, told.handler) == (container, record.sandbox_id, "crun")
    assert json.loads(told.explained.spec)["process"]["args"]
    with pytest.raises(NotFound):
        await world.node.containers.explain("f" * 64)


async def test_a_plan_is_explained_and_leaves_no_record(world: World) -> None:
    await world.created(await world.pod())
    before = (list(world.node.sandboxes.list()), list(world.node.containers.list()))
    async with bounded():
        told = await world.node.containers.explain(plan(world))
    assert (told.container, told.sandbox, told.handler) == (NO_CONTAINER, NO_SANDBOX, "crun")
    assert told.explained.origins
    assert (list(world.node.sandboxes.list()), list(world.node.containers.list())) == before


async def test_a_plan_is_refused_as_its_creation_would_be(world: World) -> None:
    explain = world.node.containers.explain
    with pytest.raises(NotFound, match="pull it first"):
        await explain(plan(world, image="nosuch:1"))
    await world.created(await world.pod())
    with pytest.raises(InvalidRequest, match="privileged"):
        await explain(plan(world, security=ContainerSecurity(privileged=True)))
    with pytest.raises(InvalidRequest, match="nosuch"):
        await explain(replace(plan(world), handler=HandlerName("nosuch")))


async def test_a_container_whose_image_is_gone_is_explained_all_the_same(world: World) -> None:
    container = await world.running(await world.pod())
    await world.node.images.remove(world.node.containers.get(container).image_id)
    async with bounded():
        told = await world.node.containers.explain(container)
    assert told.container == container
