"""The check of everything: what it finds, what it leaves alone, and what a repair mends."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from crib.engine.checks import world as world_checks
from crib.engine.containers.exits import record_exit
from crib.model.container import ContainerState, Exit
from crib.model.finding import Finding
from crib.model.image import ImageDocuments
from crib.model.sandbox import SandboxState
from crib.model.settings import Settings
from crib.ports.records import AllRecords
from tests.fakes.settings import image_settings
from tests.fakes.world import IMAGE, World, bounded, turns


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(Settings(images=image_settings(pull_linger=0.0, min_free=0)))
    await made.start()
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_checks, "SETTLE_SECONDS", 0.0)


async def found(world: World, *, repair: bool = False, quick: bool = False) -> list[Finding]:
    """Without the notes on images: those of the fake registry have no documents."""
    async with bounded():
        told = [one async for one in world.node.check(repair=repair, quick=quick)]
    return [one for one in told if not (one.is_note and one.area == "images")]


async def stopped(world: World) -> World:
    """The next daemon, which has read the records and not begun to work."""
    await world.restarted(start=False)
    await world.node.load()
    return world


async def test_a_sound_node_has_nothing_to_find(world: World) -> None:
    await world.running(await world.pod())
    assert await found(world) == []
    assert await found(await stopped(world)) == []


async def _lose_pod(world: World) -> str:
    pod = await world.pod()
    world.handler.host.pods[pod].alive = False
    return pod


async def _lose_container(world: World) -> str:
    container = await world.running(await world.pod())
    world.inside(container).status = "gone"
    world.inside(container).monitor_alive = False
    return container


async def _lose_monitor(world: World) -> str:
    container = await world.running(await world.pod())
    world.inside(container).monitor_alive = False
    return container


async def _lose_pods_row(world: World) -> str:
    pod = await world.pod()
    world.node._core.sandboxes.remove(world.records.sandboxes[pod])
    return pod


async def _fail_to_stop(world: World) -> str:
    pod = await world.pod()
    world.networks.failpoints.set("detach=1*error(busy)")
    with pytest.raises(Exception, match="busy"):
        await world.node.sandboxes.stop(pod)
    return pod


async def _damage_layer(world: World) -> str:
    await world.pulled()
    layer = world.node.images.status(IMAGE).layers[0].diff_id  # type: ignore[union-attr]
    world.images.damaged.add(layer)
    return layer


async def _leave_layer(world: World) -> str:
    world.images.layers.add(layer := "sha256:" + "9" * 64)  # type: ignore[arg-type]
    return layer


async def _change_configuration(world: World) -> str:
    await world.pulled()
    (image,) = world.records.images
    world.records.documents[image] = ImageDocuments(b"{}", b"{}")
    return image


async def _break_network(world: World) -> str:
    pod = await world.pod()
    world.networks.problems[pod] = "its link is down"
    return pod


MENDABLE = {
    "pods": [_lose_pod, _fail_to_stop],
    "containers": [_lose_container, _lose_monitor],
    "leftovers": [_lose_pods_row],
    "images": [_damage_layer, _leave_layer],
    "network": [_break_network],
}


@pytest.mark.parametrize(
    ("area", "harm"),
    [(area, harm) for area, harms in MENDABLE.items() for harm in harms],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
async def test_what_is_wrong_is_found_and_mended_while_the_daemon_works(
    world: World, area: str, harm: Callable[[World], Awaitable[str]]
) -> None:
    subject = await harm(world)
    (one,) = [one for one in await found(world) if one.area == area]
    assert subject in one.subject
    assert one.mend
    assert one.is_left
    assert [one.mended for one in await found(world, repair=True) if one.area == area] == [True]
    assert [one for one in await found(world) if one.is_left] == []


async def test_an_image_whose_configuration_was_changed_is_found(world: World) -> None:
    subject = await _change_configuration(world)
    (one,) = await found(world)
    assert (one.area, one.subject) == ("images", subject)


async def test_what_a_verb_is_about_is_no_finding(world: World) -> None:
    pod = await world.pod()
    hold = world.handler.failpoints.hold("create")
    await world.pulled()
    making = world.node.keeper.start("create", world.created(pod))
    async with bounded():
        await hold.reached.wait()
        assert await found(world) == []
        hold.release.set()
        await making


async def test_a_verb_that_hangs_is_told_of_and_nobody_waits_for_it(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    lost = await _lose_pod(world)
    locks = world.node._core.locks
    async with locks.of(pod), locks.of(container):
        told = await found(world)
    assert [(one.area, one.subject, one.is_note) for one in told] == [
        ("containers", container, True),
        ("pods", lost, False),
    ]


async def test_a_directory_that_is_gone_hides_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/data/layers")

    lost = await _lose_pod(world)
    monkeypatch.setattr(world.images, "space", gone)
    first, *others = await found(world)
    assert first.area == "node"
    assert "/data/layers" in first.problem
    assert [one.subject for one in others] == [lost]


async def test_an_exit_that_is_about_to_be_recorded_is_no_finding(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await world.running(await world.pod())
    seen = world.handler.containers.observe
    looks = 0

    async def observe(record):  # type: ignore[no-untyped-def]  # as the port has it
        nonlocal looks
        looks += 1
        now = await seen(record)
        return replace(now, exit=Exit(container, 0, 1)) if looks == 1 else now

    monkeypatch.setattr(world.handler.containers, "observe", observe)
    assert await found(world) == []
    assert looks == 2


async def test_an_exit_that_comes_between_the_look_and_the_repair_stays_on_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await world.created(await world.pod())
    world.inside(container).status = "running"
    seen, core = world.handler.containers.observe, world.node._core
    looks = 0

    async def observe(record):  # type: ignore[no-untyped-def]  # as the port has it
        nonlocal looks
        looks += 1
        if looks == 3:  # the last one before the repair; it is recorded once the look lets go of the lock
            core.keeper.start("exit", record_exit(core, Exit(container, 3, 1)))
            await turns()
        return await seen(record)

    monkeypatch.setattr(world.handler.containers, "observe", observe)
    (one,) = await found(world, repair=True)
    assert (one.subject, looks) == (container, 3)
    row = world.node.containers.get(container)
    assert (row.state, row.exit_code) == (ContainerState.EXITED, 3)


async def test_leftovers_are_looked_for_twice_however_many_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def sweep(known, *, dry=False):  # type: ignore[no-untyped-def]  # as the port has it
        nonlocal looks
        looks += 1
        assert dry
        return [f"container {number}" for number in range(5)]

    monkeypatch.setattr(world.handler, "sweep", sweep)
    assert [one.area for one in await found(world)] == ["leftovers"] * 5
    assert looks == 2


async def test_before_the_start_what_was_broken_off_is_found_and_nothing_changed(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    world.records.sandboxes[pod] = replace(world.records.sandboxes[pod], state=SandboxState.REMOVING)
    row = world.records.containers[container]
    world.records.containers[container] = replace(row, state=ContainerState.CREATING)
    told = await found(await stopped(world), repair=True)
    assert {(one.area, one.subject, one.mended) for one in told} == {
        ("pods", pod, False),
        ("containers", container, False),
    }
    await world.start()
    assert await found(world) == []


async def test_a_check_before_the_start_leaves_the_start_no_records_to_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.restarted(start=False)
    load, loads = world.records.load, 0

    def counted() -> AllRecords:
        nonlocal loads
        loads += 1
        return load()

    monkeypatch.setattr(world.records, "load", counted)
    await world.node.load()
    await world.node.start()
    assert loads == 1


async def test_pods_of_an_earlier_boot_are_found_before_the_start_once_each(world: World) -> None:
    pod = await world.pod()
    world.boot_id = "boot-2"
    world.handler.host.pods.clear()
    told = await found(await stopped(world))
    assert [(one.area, one.subject) for one in told] == [("pods", pod)]


async def test_what_cannot_be_looked_at_hides_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise OSError(errno.EIO, "the disk is broken")

    pod = await _lose_pod(world)
    world.handler.failpoints.set("sweep=9*error(no such device)")
    monkeypatch.setattr(world.images, "space", broken)
    told = await found(world)
    assert [one.area for one in told] == ["node", "pods", "leftovers"]
    assert "the disk is broken" in told[0].problem
    assert pod == told[1].subject
    assert "no such device" in told[2].problem


async def test_faults_count_and_what_is_over_is_only_told(world: World) -> None:
    notices = world.node._core.notices
    notices.fault("records", "the disk is full")
    notices.past("layers", "one was unmounted by hand")
    world.handler.logs.oddities = [("/var/log/pods/x/stray", "is no log of a container")]
    told = await found(world)
    assert [(one.area, one.is_left) for one in told] == [("node", True), ("node", False), ("logs", False)]


async def test_a_quick_check_reads_no_layer(world: World) -> None:
    layer = await _damage_layer(world)
    assert await found(world, quick=True) == []
    world.images.layers.discard(layer)
    (one,) = await found(world, quick=True)
    assert layer in one.subject
    assert [one.mended for one in await found(world, quick=True, repair=True)] == [True]
    assert await found(world, quick=True) == []
