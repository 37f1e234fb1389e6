"""Logs within the bound that the settings give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.engine.containers import rotation
from crib.engine.containers.rotation import RotateLogs
from crib.model.container import ContainerRecord
from crib.model.ids import ContainerId, SandboxId
from tests.fakes.world import World, bounded


@pytest.fixture
def rotate(world: World) -> RotateLogs:
    core = world.node._core
    core.settings = replace(core.settings, log_size_max=100_000)
    return RotateLogs(core)


async def logging(world: World, pod: SandboxId, name: str, size: int) -> ContainerId:
    """A running container with a log of that size."""
    container = await world.running(pod, name)
    record = world.node.containers.get(container)
    world.node._core.containers.put(replace(record, log_path=f"/logs/{name}"))
    world.inside(container).log_size = size
    return container


async def test_only_a_running_containers_long_log_is_rotated(world: World, rotate: RotateLogs) -> None:
    pod = await world.pod()
    long, short = await logging(world, pod, "long", 100_001), await logging(world, pod, "short", 100_000)
    mute = await world.running(pod, "mute")
    world.inside(mute).log_size = 1 << 30
    async with bounded():
        await rotate.round()
        await rotate.round()
    assert [world.inside(key).reopened for key in (long, short, mute)] == [1, 0, 0]


async def test_a_log_that_cannot_be_rotated_holds_up_no_other_and_has_a_pause(
    world: World, rotate: RotateLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await world.pod()
    one, two = await logging(world, pod, "one", 1 << 20), await logging(world, pod, "two", 1 << 20)
    world.handler.failpoints.set("rotate_log=1*error(disk full)")
    async with bounded():
        await rotate.round()
        assert [world.inside(key).reopened for key in (one, two)] == [0, 1]
        await rotate.round()
        assert world.inside(one).reopened == 0
        monkeypatch.setattr(rotation, "PAUSE", 0.0)
        rotate._paused.clear()
        await rotate.round()
        assert world.inside(one).reopened == 1


async def test_a_bug_at_one_log_holds_up_no_other(
    world: World, rotate: RotateLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate_log = world.handler.logs.rotate

    async def broken(record: ContainerRecord, size_max: int, files: int) -> bool:
        if record.config.name == "one":
            raise ZeroDivisionError("a bug")
        return await rotate_log(record, size_max, files)

    pod = await world.pod()
    one, two = await logging(world, pod, "one", 1 << 20), await logging(world, pod, "two", 1 << 20)
    monkeypatch.setattr(world.handler.logs, "rotate", broken)
    async with bounded():
        await rotate.round()
    assert [world.inside(key).reopened for key in (one, two)] == [0, 1]


async def test_nothing_is_begun_without_a_bound(world: World) -> None:
    before = set(world.node.keeper._tasks)
    RotateLogs(world.node._core).begin()
    assert set(world.node.keeper._tasks) == before
