"""Volumes after the daemon's end at any point, and after a reboot; and what check and prune find of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crib.engine.volumes.upkeep import Pruned
from crib.model.errors import Broken
from crib.model.events import EventKind
from crib.model.finding import Finding
from crib.model.volumes import (
    Reclaim,
    SnapshotState,
    StageState,
    UseState,
    VolumeName,
    VolumeRecord,
    VolumeState,
)
from crib.ports.volumes import Leftover
from tests.fakes.world import World, bounded, until
from tests.unit.engine.volume_orders import order, pod, published, wanted


def row(world: World, name: str = "data") -> VolumeRecord:
    (found,) = [one for one in world.records.volumes.values() if one.name.name == name]
    return found


async def killed_in(world: World, step: str, *, boot_id: str = "") -> World:
    """The daemon is killed while the kind is at this step of a pod's volume, and starts again."""
    hold = world.volumes.kind.failpoints.hold(step)
    call = asyncio.ensure_future(_life(world))
    async with bounded():
        await hold.reached.wait()
        world.node.keeper.cancel()
        await asyncio.wait([call])
    if boot_id:
        world.volumes.kind.reboot()
    world = await world.restarted(boot_id=boot_id)
    await recovered(world)
    return world


async def _life(world: World) -> None:
    await published(world)
    await world.node.volumes.snapshot("data", "monday")
    await world.node.volumes.unpublish("uid-web")
    await world.node.volumes.remove_snapshot("monday")
    await world.node.volumes.remove("data")


async def recovered(world: World) -> None:
    """Nothing that a start began goes on."""
    await until(lambda: not any(work.name == "recovery" for work in world.node.keeper.works()))


STEPS = ["create", "stage", "publish", "snapshot", "unpublish", "unstage", "delete_snapshot", "delete"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("boot_id", ["", "boot-2"])
async def test_a_daemon_that_is_killed_at_any_step_leaves_what_can_be_gone_on_with(
    world: World, step: str, boot_id: str
) -> None:
    world = await killed_in(world, step, boot_id=boot_id)
    rows = list(world.records.volumes.values())
    assert all(one.state is VolumeState.READY for one in rows)
    assert all(use.state is UseState.PUBLISHED for one in rows for use in one.uses)
    assert all((one.stage is StageState.STAGED) == bool(one.uses) for one in rows)
    assert set(world.volumes.kind.there) == {one.id for one in rows}
    assert all(one.state is SnapshotState.READY for one in world.records.snapshots.values())
    assert set(world.volumes.kind.kept) == set(world.records.snapshots)
    await published(world)
    if world.records.snapshots:
        await world.node.volumes.remove_snapshot("monday")
    await world.node.volumes.unpublish("uid-web")
    await world.node.volumes.remove("data")
    assert not world.volumes.kind.there
    assert not world.volumes.kind.kept
    assert not world.records.volumes
    assert not world.records.snapshots


async def test_after_a_kill_pods_keep_what_they_have_and_nothing_is_done(world: World) -> None:
    await published(world)
    before = row(world)
    calls = len(world.volumes.kind.failpoints.calls)
    world = await world.restarted()
    await recovered(world)
    assert row(world) == before
    assert len(world.volumes.kind.failpoints.calls) == calls


async def test_a_kill_while_a_pod_asks_again_takes_nothing_from_it(world: World) -> None:
    """A start would else take from a running pod what it has: of a tmpfs all its files."""
    await published(world)
    calls = world.volumes.kind.failpoints.calls
    hold = world.volumes.kind.failpoints.hold("publish")
    call = asyncio.ensure_future(published(world))
    async with bounded():
        await hold.reached.wait()
        world.node.keeper.cancel()
        await asyncio.wait([call])
    before = len(calls)
    world = await world.restarted()
    await recovered(world)
    (use,) = row(world).uses
    assert (row(world).stage, use.state) == (StageState.STAGED, UseState.PUBLISHED)
    assert len(world.volumes.kind.failpoints.calls) == before, "nothing is unpublished or unstaged"
    (again,) = await published(world)
    assert again.use.path == use.path


async def test_after_a_reboot_pods_have_their_volumes_again(world: World) -> None:
    await published(world, "web", wanted("one"), wanted("two"))
    world.volumes.kind.reboot()
    world = await world.restarted(boot_id="boot-2")
    await recovered(world)
    for name in ("one", "two"):
        record = row(world, name)
        (use,) = record.uses
        assert (record.stage, record.boot_id, use.state) == (
            StageState.STAGED,
            "boot-2",
            UseState.PUBLISHED,
        )
        assert world.volumes.kind.there[record.id].staged
    told = [one for one in world.journal.read(0, 100) if one.kind is EventKind.VOLUME]
    assert [one.action for one in told][-2:] == ["published again", "published again"]


async def test_a_volume_that_cannot_be_had_after_a_reboot_says_why_and_comes_with_the_pod(
    world: World,
) -> None:
    await published(world)
    world.volumes.kind.reboot()
    world.volumes.kind.failpoints.set("stage=1*unavailable(the driver is away)")
    world = await world.restarted(boot_id="boot-2")
    await recovered(world)
    (use,) = row(world).uses
    text = "volume default/data: stage: the driver is away"
    assert (use.state, use.problem) == (UseState.PUBLISHING, text)
    found = [one async for one in world.node.volumes.check(repair=False)]
    assert [(one.subject, one.problem) for one in found] == [("default/data of pod default/web", text)]
    (one,) = await published(world)
    assert (one.use.problem, one.record.problem) == ("", "")


async def test_a_pod_that_comes_before_its_volume_was_recovered_gets_it(world: World) -> None:
    await published(world)
    world.volumes.kind.reboot()
    hold = world.volumes.kind.failpoints.hold("stage")
    world = await world.restarted(boot_id="boot-2")
    async with bounded():
        await hold.reached.wait()
        call = asyncio.ensure_future(published(world))
        hold.release.set()
        (one,) = await call
    assert one.use.state is UseState.PUBLISHED
    assert world.volumes.kind.failpoints.count("stage") == 2  # of the two boots


async def test_a_kind_that_hangs_after_a_reboot_holds_up_nobody_else(world: World) -> None:
    await published(world, "web", wanted("hangs"), wanted("well"))
    world.volumes.kind.reboot()
    hold = world.volumes.kind.failpoints.hold("stage", subject="hangs")
    world = await world.restarted(boot_id="boot-2")
    async with bounded():
        await hold.reached.wait()
        await until(lambda: row(world, "well").boot_id == "boot-2")
        await world.pod("other")
        hold.release.set()
    await recovered(world)


async def test_a_copy_that_was_cut_off_is_no_user_any_more(world: World) -> None:
    await world.node.volumes.create(order())
    hold = world.volumes.archives.failpoints.hold("write")
    call = asyncio.ensure_future(world.node.volumes.export("data", "/archive"))
    async with bounded():
        await hold.reached.wait()
        # As a kill leaves it: a task that is cancelled would still tidy up.
        left = row(world)
        world.node.keeper.cancel()
        await asyncio.wait([call])
    world.records.volumes[left.id] = left
    world.volumes.kind.there[left.id].staged = True
    world = await world.restarted()
    await recovered(world)
    assert row(world).uses == ()
    assert world.volumes.kind.is_clean


async def test_what_could_not_be_removed_is_tried_again_and_a_check_does_it_at_once(world: World) -> None:
    await world.node.volumes.create(order())
    await world.node.volumes.snapshot("data", "monday")
    world.volumes.kind.failpoints.set("delete=1*error(busy)")
    world.volumes.kind.failpoints.set("delete_snapshot=1*error(busy)")
    with pytest.raises(Broken):
        await world.node.volumes.remove("data")
    with pytest.raises(Broken):
        await world.node.volumes.remove_snapshot("monday")
    assert world.node.gauges().left == 2
    found = {one.subject: one.problem async for one in world.node.volumes.check(repair=False)}
    assert found == {
        "default/data": "volume default/data: delete: busy",
        "snapshot default/monday": "volume default/data: delete snapshot: busy",
    }
    mended = [one async for one in world.node.volumes.check(repair=True)]
    assert all(one.mended for one in mended)
    assert not world.records.volumes
    assert not world.records.snapshots


async def checked(world: World, *texts: str, repair: bool = False) -> list[Finding]:
    return [one async for one in world.node.volumes.check(texts, repair=repair)]


async def test_a_check_of_what_is_well_finds_nothing(world: World) -> None:
    await published(world)
    await world.node.volumes.snapshot("data", "monday")
    assert await checked(world) == []
    assert [one async for one in world.node.check(repair=False) if one.area == "volumes"] == []


async def test_a_pod_whose_files_are_gone_loses_its_volumes_by_a_repair_only(world: World) -> None:
    await published(world)
    world.volumes.ground.missing = {pod().files}
    (found,) = await checked(world)
    assert found.problem == "/pods/uid-web is gone, and so is the pod"
    assert row(world).uses
    (found,) = await checked(world, repair=True)
    assert found.mended
    assert not row(world).uses
    assert world.volumes.kind.is_clean
    assert await checked(world) == []


async def test_what_a_kind_finds_is_told_and_mended_by_publishing_again(world: World) -> None:
    await published(world)
    world.volumes.kind.findings = [
        Finding("volumes", "default/data", "nothing is mounted", "it is published again"),
        Finding("volumes", "default/data", "the limit is another"),
    ]
    assert await checked(world) == world.volumes.kind.findings
    stages = world.volumes.kind.failpoints.count("stage")
    found = await checked(world, "data", repair=True)
    assert {one.problem: one.mended for one in found} == {
        "nothing is mounted": True,
        "the limit is another": False,
    }
    assert world.volumes.kind.failpoints.count("stage") == stages + 1
    assert row(world).stage is StageState.STAGED


async def test_a_volume_that_a_verb_is_at_is_not_checked(world: World) -> None:
    hold = world.volumes.kind.failpoints.hold("publish")
    call = asyncio.ensure_future(published(world))
    async with bounded():
        await hold.reached.wait()
        (found,) = await checked(world)
        hold.release.set()
        await call
    assert (found.is_note, found.problem) == (
        True,
        "is not checked: a verb is working on it (crib work)",
    )


async def test_a_kind_that_cannot_look_is_a_finding(world: World) -> None:
    await world.node.volumes.create(order())
    world.volumes.kind.failpoints.set("check=1*unavailable(no answer)")
    (found,) = await checked(world)
    assert found.problem == "cannot be checked: volume default/data: check: no answer"


async def test_leftovers_of_this_boot_are_cleared_and_what_lasts_is_only_told(world: World) -> None:
    record = (await world.node.volumes.create(order())).record
    mine = Leftover(record.id, f"/data/volumes/{record.id}", lasts=True)
    lost = Leftover("0" * 32, "/data/volumes/" + "0" * 32, lasts=True)
    mounted = Leftover("1" * 32, "/state/volumes/" + "1" * 32, lasts=False)
    world.volumes.ground.left = [mine, lost, mounted]
    found = await checked(world, repair=True)
    assert {one.subject: (one.mended, one.is_left) for one in found} == {
        lost.path: (False, True),
        mounted.path: (True, False),
    }
    assert world.volumes.ground.left == [mine, lost]


async def pruned(world: World, *, everything: bool = False, dry: bool = False) -> list[Pruned]:
    return [one async for one in world.node.volumes.prune(everything=everything, dry=dry)]


async def test_prune_takes_volumes_from_pods_that_are_gone_and_what_such_pods_own(world: World) -> None:
    await published(world, "gone", wanted("shared"), wanted("own", order=order("own", owner="uid-gone")))
    await published(world, "here", wanted("shared"), wanted("mine", order=order("mine", owner="uid-here")))
    assert await pruned(world) == []
    world.volumes.ground.missing = {pod("gone").files}
    text = "pod default/gone is gone: /pods/uid-gone is not there"
    wish = [
        Pruned(VolumeName("default", "shared"), text, removed=False),
        Pruned(VolumeName("default", "own"), text, removed=False),
        Pruned(VolumeName("default", "own"), "it goes with the pod of uid uid-gone", removed=True),
    ]
    assert await pruned(world, dry=True) == wish
    assert len(row(world, "shared").uses) == 2
    assert await pruned(world) == wish
    assert sorted(one.name.name for one in world.records.volumes.values()) == ["mine", "shared"]
    assert [use.pod.name for use in row(world, "shared").uses] == ["here"]


async def test_prune_of_everything_takes_what_nobody_uses_unless_it_is_to_be_retained(world: World) -> None:
    await world.node.volumes.create(order("idle"))
    await world.node.volumes.create(order("kept", Reclaim.RETAIN))
    await published(world, "web", wanted("used"))
    assert await pruned(world) == []
    assert await pruned(world, everything=True) == [
        Pruned(VolumeName("default", "idle"), "no pod uses it", removed=True)
    ]
    assert sorted(one.name.name for one in world.records.volumes.values()) == ["kept", "used"]


async def test_what_cannot_be_pruned_says_why(world: World) -> None:
    await world.node.volumes.create(order("idle"))
    world.volumes.kind.failpoints.set("delete=1*error(busy)")
    (one,) = await pruned(world, everything=True)
    assert one.problem == "volume default/idle: delete: busy"


async def test_rows_that_a_later_start_finds_are_as_they_were(world: World) -> None:
    await published(world)
    kept = await world.node.volumes.snapshot("data", "monday")
    before = row(world)
    world = await world.restarted()
    assert list(world.node.volumes.list()) == [before]
    assert list(world.node.volumes.snapshots()) == [replace(kept)]
