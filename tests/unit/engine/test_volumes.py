"""Volumes are made, given to pods, taken back and removed, with an engine over fakes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from crib.engine.volumes import publishing
from crib.engine.volumes.verbs import VolumeFilter
from crib.model.errors import (
    AlreadyExists,
    Broken,
    CribError,
    Exhausted,
    InvalidRequest,
    NotFound,
    Unavailable,
    WrongState,
)
from crib.model.settings import Settings
from crib.model.volume_settings import VolumeClass, VolumeSettings
from crib.model.volumes import (
    AccessMode,
    Reclaim,
    StageState,
    UseState,
    VolumeDescription,
    VolumeName,
    VolumeRecord,
    VolumeSpec,
    VolumeState,
)
from crib.ports.volumes import KindFacts
from tests.fakes.settings import image_settings
from tests.fakes.world import World, bounded, turns
from tests.unit.engine.volume_orders import ONE_POD, order, pod, published, wanted

NAME = VolumeName("default", "data")


def row(world: World, name: str = "data") -> VolumeRecord:
    (found,) = [one for one in world.records.volumes.values() if one.name.name == name]
    return found


def assert_nothing_is_left(world: World) -> None:
    assert not world.volumes.kind.there
    assert not world.records.volumes


async def test_a_volume_is_made_and_on_record(world: World) -> None:
    made = await world.node.volumes.create(order(capacity=10))
    assert made.is_new
    assert made.record.state is VolumeState.READY
    assert made.record.handle == "handle-default/data"
    assert made.record.context == {"made": "yes"}
    assert made.record.capacity == 10
    assert row(world) == made.record
    assert set(world.volumes.kind.there) == {made.record.id}


async def test_a_volume_that_is_there_already_is_the_answer_if_it_is_the_same(world: World) -> None:
    first = await world.node.volumes.create(order(labels={"a": "b"}))
    again = await world.node.volumes.create(order(labels={"a": "c"}))
    assert (again.record, again.is_new) == (first.record, False)
    assert world.volumes.kind.failpoints.count("create") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"parameters": {"a": "b"}}, "its parameters is {}, not {'a': 'b'}"),
        ({"block": True}, "its block is False, not True"),
        ({"capacity": 11}, "it has 10 bytes, not 11: resize it"),
        ({"access_modes": ONE_POD}, "its access_modes is ReadWriteOnce, not ReadWriteOncePod"),
    ],
)
async def test_a_volume_that_is_there_and_differs_is_refused_by_the_difference(
    world: World, change: dict[str, Any], says: str
) -> None:
    await world.node.volumes.create(order(capacity=10))
    with pytest.raises(AlreadyExists, match="volume default/data is there already: ") as refused:
        await world.node.volumes.create(order(**{"capacity": 10, **change}))
    assert says in str(refused.value)


async def test_two_callers_who_want_the_same_volume_get_one(world: World) -> None:
    hold = world.volumes.kind.failpoints.hold("create")
    first = asyncio.ensure_future(world.node.volumes.create(order()))
    async with bounded():
        await hold.reached.wait()
        second = asyncio.ensure_future(world.node.volumes.create(order()))
        await turns()
        hold.release.set()
        assert (await first).record == (await second).record


async def test_a_create_that_fails_leaves_nothing(world: World) -> None:
    world.volumes.kind.failpoints.set("create=1*error(no space)")
    with pytest.raises(Broken, match="volume default/data: create: no space"):
        await world.node.volumes.create(order())
    assert_nothing_is_left(world)


async def test_a_create_whose_teardown_fails_stays_on_record_and_the_next_try_clears_it(world: World) -> None:
    world.volumes.kind.failpoints.set("create=1*error(no space)")
    world.volumes.kind.failpoints.set("delete=1*error(busy)")
    with pytest.raises(Broken, match="no space"):
        await world.node.volumes.create(order())
    assert row(world).state is VolumeState.REMOVING
    assert row(world).problem == "volume default/data: delete: busy"
    first = row(world).id
    made = await world.node.volumes.create(order())
    assert made.record.id != first
    assert list(world.volumes.kind.there) == [made.record.id]


async def test_a_caller_who_goes_away_does_not_end_the_work(world: World) -> None:
    hold = world.volumes.kind.failpoints.hold("create")
    call = asyncio.ensure_future(world.node.volumes.create(order()))
    async with bounded():
        await hold.reached.wait()
        call.cancel()
        hold.release.set()
        made = await world.node.volumes.create(order())
    assert not made.is_new


async def test_a_kind_that_hangs_is_given_up_and_the_stage_is_named() -> None:
    settings = Settings(images=image_settings(), volumes=VolumeSettings(timeout=0.1))
    world = World(settings)
    await world.start()
    for stage, hung in (("create", "create"), ("stage", "stage"), ("publish", "publish")):
        hold = world.volumes.kind.failpoints.hold(hung)
        with pytest.raises(Unavailable, match=f"volume default/data: {stage}: takes more than 0.1 s"):
            await published(world)
        assert hold.reached.is_set()
        assert_nothing_is_left(world)
    await world.close()


async def test_what_a_kind_cannot_do_is_refused_before_any_work(world: World) -> None:
    kind = world.volumes.kind
    kind.can = KindFacts(access_modes=frozenset({AccessMode.READ_WRITE_ONCE}))
    for change, says in (
        ({"block": True}, "block: kind local has no raw devices"),
        ({"access_modes": ONE_POD}, "access_modes: kind local cannot be used as ReadWriteOncePod"),
    ):
        with pytest.raises(WrongState, match=says):
            await world.node.volumes.create(order(**change))
    kind.can = KindFacts(files=False, block=True)
    with pytest.raises(WrongState, match="block: kind local has raw devices only"):
        await world.node.volumes.create(order())
    with pytest.raises(InvalidRequest, match=r"parameters\.wrong: is not known"):
        await world.node.volumes.create(order(block=True, parameters={"wrong": ""}))
    assert_nothing_is_left(world)
    assert kind.failpoints.count("create") == 0


async def test_a_kind_that_there_is_not_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequest, match="kind: there is no kind 'floppy'"):
        await world.node.volumes.create(order(kind="floppy"))


async def test_a_size_that_is_no_limit_is_told(world: World) -> None:
    world.volumes.kind.can = KindFacts(sizes="there are no quotas")
    made = await world.node.volumes.create(order(capacity=5))
    assert made.warnings == ("its size of 5 bytes is not a limit: there are no quotas",)
    (one,) = await published(world, "web", wanted("other", order=order("other", capacity=6)))
    assert one.warnings == ("its size of 6 bytes is not a limit: there are no quotas",)


@pytest.fixture
def classes() -> VolumeSettings:
    fast = VolumeClass(
        kind="csi",
        driver="d.example",
        parameters={"pool": "ssd", "tier": "1"},
        fs_type="xfs",
        mount_options=("noatime",),
        reclaim="Retain",
        secrets={"password": "/secret"},
    )
    return VolumeSettings(classes={"fast": fast})


async def test_a_class_fills_in_what_was_not_said(classes: VolumeSettings) -> None:
    world = World(Settings(images=image_settings(), volumes=classes))
    await world.start()
    wish = order(kind="", storage_class="fast", parameters={"tier": "2"})
    spec = (await world.node.volumes.create(wish)).record.spec
    assert (spec.kind, spec.driver, spec.fs_type) == ("csi", "d.example", "xfs")
    assert spec.parameters == {"pool": "ssd", "tier": "2"}
    assert (spec.mount_options, spec.secrets) == (("noatime",), {"password": "/secret"})
    assert spec.reclaim is Reclaim.RETAIN
    wish = order("other", Reclaim.DELETE, kind="", storage_class="fast")
    assert (await world.node.volumes.create(wish)).record.spec.reclaim is Reclaim.DELETE
    await world.close()


async def test_a_volume_is_what_its_class_was_when_it_was_made(classes: VolumeSettings) -> None:
    world = World(Settings(images=image_settings(), volumes=classes))
    await world.start()
    wish = order(kind="", storage_class="fast")
    record = (await world.node.volumes.create(wish)).record
    for later in (
        replace(classes, classes={"fast": VolumeClass(kind="csi", driver="e.example")}),
        VolumeSettings(),
    ):
        world.node.adapt(replace(world.settings, volumes=later))
        (one,) = await published(world, "web", wanted(order=wish))
        assert one.record.spec == record.spec
    with pytest.raises(AlreadyExists, match="its fs_type is 'xfs', not 'ext4'"):
        await world.node.volumes.create(order(kind="", storage_class="fast", fs_type="ext4"))
    await world.close()


async def test_a_volume_outlives_the_snapshot_that_it_began_as(world: World) -> None:
    await world.node.volumes.create(order("first"))
    await world.node.volumes.snapshot("first", "monday")
    wish = wanted(order=order(snapshot="monday"))
    (one,) = await published(world, "web", wish)
    await world.node.volumes.remove_snapshot("monday")
    (again,) = await published(world, "web", wish)
    assert again.record.id == one.record.id


async def test_without_a_class_and_a_kind_the_default_class_holds(world: World) -> None:
    spec = (await world.node.volumes.create(order(kind=""))).record.spec
    assert (spec.kind, spec.storage_class) == ("local", "local")


async def test_a_class_that_is_not_configured_or_says_something_else_is_refused(
    classes: VolumeSettings,
) -> None:
    world = World(Settings(images=image_settings(), volumes=replace(classes, default_class="")))
    await world.start()
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"kind": "", "storage_class": "slow"}, "storage_class: no class 'slow' is configured"),
        ({"kind": "local", "storage_class": "fast"}, "kind: is 'local', and class 'fast' has 'csi'"),
        ({"kind": ""}, "storage_class: none is named, and volumes.default_class is empty"),
    )
    for change, says in wrong:
        with pytest.raises(InvalidRequest, match=says):
            await world.node.volumes.create(order(**change))
    await world.close()


async def test_a_pod_gets_a_volume_that_is_made_for_it(world: World) -> None:
    (one,) = await published(world)
    assert one.created
    record = row(world)
    assert record.stage is StageState.STAGED
    assert record.attachment == {"staged": "yes"}
    assert record.boot_id == "boot-1"
    (use,) = record.uses
    assert (use.state, use.path, use.pod) == (UseState.PUBLISHED, one.use.path, pod())
    assert use.path == f"/volumes/{record.id}/{use.key}"


async def test_a_pod_that_asks_again_gets_the_same(world: World) -> None:
    (one,) = await published(world)
    (again,) = await published(world)
    assert again.use == one.use
    assert (again.created, again.is_new) == (False, False)
    assert len(row(world).uses) == 1
    assert world.volumes.kind.failpoints.count("stage") == 1


async def test_a_volume_must_be_there_where_nobody_says_how_to_make_it(world: World) -> None:
    with pytest.raises(NotFound, match="there is no volume default/data"):
        await published(world, "web", wanted(order=None))
    await world.node.volumes.create(order())
    (one,) = await published(world, "web", wanted(order=None))
    assert not one.created


async def test_two_pods_share_a_volume_that_is_staged_once(world: World) -> None:
    await published(world, "one")
    await published(world, "two")
    assert world.volumes.kind.failpoints.count("stage") == 1
    assert await world.node.volumes.unpublish("uid-one") == []
    assert row(world).stage is StageState.STAGED
    await world.node.volumes.unpublish("uid-two")
    record = row(world)
    assert (record.stage, record.uses, record.attachment) == (StageState.UNSTAGED, (), {})
    assert world.volumes.kind.is_clean


async def test_what_needs_no_staging_is_not_staged(world: World) -> None:
    world.volumes.kind.can = KindFacts(stages=False)
    await published(world)
    await world.node.volumes.unpublish("uid-web")
    names = world.volumes.kind.failpoints.names()
    assert "stage" not in names
    assert "unstage" not in names


async def test_a_volume_for_one_pod_is_refused_to_another_by_the_users_name(world: World) -> None:
    wish = wanted(order=order(access_modes=ONE_POD))
    await published(world, "one", wish, wanted(volume="twice", order=None))
    with pytest.raises(WrongState) as refused:
        await published(world, "two", wanted(order=None))
    assert "is ReadWriteOncePod, and is used by pod default/one (uid uid-one)" in str(refused.value)
    await world.node.volumes.unpublish("uid-one")
    await published(world, "two", wanted(order=None))


async def test_a_volume_that_many_may_read_is_given_read_only(world: World) -> None:
    wish = wanted(order=order(access_modes=(AccessMode.READ_ONLY_MANY,)))
    (one,) = await published(world, "web", wish)
    assert one.use.read_only


async def test_a_volume_that_a_pod_uses_is_not_removed_and_the_pod_is_named(world: World) -> None:
    await published(world)
    with pytest.raises(WrongState, match=r"volume default/data is used by pod default/web \(uid uid-web\)"):
        await world.node.volumes.remove("data")
    await world.node.volumes.unpublish("uid-web")
    await world.node.volumes.remove("data")
    assert_nothing_is_left(world)


@pytest.mark.parametrize("text", ["data", "default/data", "ID", "BEGINNING"])
async def test_a_volume_is_found_by_name_and_by_id(world: World, text: str) -> None:
    record = (await world.node.volumes.create(order())).record
    text = {"ID": record.id, "BEGINNING": record.id[:8]}.get(text, text)
    found, snapshots, can = await world.node.volumes.inspect(text)
    assert (found, list(snapshots)) == (record, [])
    assert "resize" in can
    assert "ReadWriteMany" in can


async def test_one_that_is_not_there_is_not_found(world: World) -> None:
    await world.node.volumes.create(order())
    for text in ("other/data", "datum", "ffffffff"):
        with pytest.raises(NotFound, match=f"there is no volume '{text}'"):
            await world.node.volumes.remove(text)


@pytest.mark.parametrize("stage", ["stage", "publish"])
async def test_a_publish_that_fails_is_undone_with_what_it_made(world: World, stage: str) -> None:
    world.volumes.kind.failpoints.set(f"{stage}=1*error(no)")
    with pytest.raises(Broken, match=f"volume default/data: {stage}: no"):
        await published(world)
    assert_nothing_is_left(world)


async def test_a_publish_that_fails_leaves_a_volume_that_was_there(world: World) -> None:
    await world.node.volumes.create(order())
    world.volumes.kind.failpoints.set("publish=1*error(no)")
    with pytest.raises(Broken):
        await published(world)
    record = row(world)
    assert (record.state, record.uses, record.stage) == (VolumeState.READY, (), StageState.UNSTAGED)
    assert world.volumes.kind.is_clean


async def test_when_one_of_a_pods_volumes_fails_it_gets_none_of_the_call(world: World) -> None:
    await published(world, "web", wanted("before"))
    world.volumes.kind.failpoints.set("publish=1*error(no)", subject="three")
    with pytest.raises(Broken, match="volume default/three: publish: no"):
        await published(world, "web", wanted("before"), wanted("two"), wanted("three"))
    assert [record.name.name for record in world.records.volumes.values()] == ["before"]
    assert [use.state for use in row(world, "before").uses] == [UseState.PUBLISHED]


async def test_a_publish_that_cannot_be_undone_is_completed_by_the_next(world: World) -> None:
    await world.node.volumes.create(order())
    world.volumes.kind.failpoints.set("publish=1*error(no)")
    world.volumes.kind.failpoints.set("unpublish=1*error(busy)")
    with pytest.raises(Broken, match="publish: no"):
        await published(world)
    (use,) = row(world).uses
    assert (use.state, use.problem) == (
        UseState.UNPUBLISHING,
        "volume default/data: unpublish: busy",
    )
    (one,) = await published(world)
    assert (one.use.state, one.use.problem) == (UseState.PUBLISHED, "")


async def test_volumes_of_a_pod_go_with_it_where_it_owns_them(world: World) -> None:
    own = order("own", owner="uid-web")
    kept = order("kept", Reclaim.RETAIN, owner="uid-web")
    await published(world, "web", wanted("own", order=own), wanted("kept", order=kept), wanted("data"))
    assert await world.node.volumes.unpublish("uid-web") == [VolumeName("default", "own")]
    assert sorted(record.name.name for record in world.records.volumes.values()) == ["data", "kept"]
    assert await world.node.volumes.unpublish("uid-web") == []


async def test_a_volume_that_goes_with_a_pod_is_no_other_pods(world: World) -> None:
    await published(world, "web", wanted(order=order(owner="uid-web")))
    with pytest.raises(AlreadyExists, match="goes with another pod, of uid uid-web"):
        await published(world, "other", wanted(order=order(owner="uid-other")))


async def test_an_unpublish_that_fails_says_so_and_the_next_one_goes_on(world: World) -> None:
    await published(world, "web", wanted("one"), wanted("two"))
    world.volumes.kind.failpoints.set("unpublish=1*error(busy)", subject="one")
    with pytest.raises(Broken, match="uid uid-web: volume default/one: unpublish: busy"):
        await world.node.volumes.unpublish("uid-web")
    assert row(world, "two").uses == ()
    await world.node.volumes.unpublish("uid-web")
    assert row(world, "one").uses == ()
    assert world.volumes.kind.is_clean


async def test_an_unstaging_that_fails_is_seen_and_done_again(world: World) -> None:
    await published(world)
    world.volumes.kind.failpoints.set("unstage=1*error(busy)")
    with pytest.raises(Broken, match="unstage: busy"):
        await world.node.volumes.unpublish("uid-web")
    assert row(world).problem == "volume default/data: unstage: busy"
    (found,) = [one async for one in world.node.volumes.check(repair=True)]
    assert (found.problem, found.mended) == ("no pod uses it, and it is unstaging", True)
    assert world.volumes.kind.is_clean


async def test_nothing_is_made_while_the_node_has_a_fault(world: World) -> None:
    world.node.notices.fault("disk", "is gone")
    for call in (world.node.volumes.create(order()), published(world)):
        with pytest.raises(Unavailable, match="disk: is gone"):
            await call
    assert_nothing_is_left(world)


async def test_volumes_are_listed_by_what_is_asked_for(world: World) -> None:
    await published(world, "web", wanted("one", order=order("one", labels={"a": "b"})), wanted("two"))
    other = replace(order("far"), name=VolumeName("away", "far"))
    await world.node.volumes.create(other)

    def listed(**wish: object) -> list[str]:
        return [str(one.name) for one in world.node.volumes.list(VolumeFilter(**wish))]  # type: ignore[arg-type]

    path = row(world, "one").uses[0].path
    assert listed() == ["away/far", "default/one", "default/two"]
    assert listed(namespace="away") == ["away/far"]
    assert listed(labels=(("a", "b"),)) == ["default/one"]
    assert listed(pod_uid="uid-web") == ["default/one", "default/two"]
    assert listed(path=path) == ["default/one"]
    assert listed(path=f"{path}/below") == ["default/one"]
    assert listed(path=f"{path}0") == []


async def test_a_volume_gets_larger_and_never_smaller(world: World) -> None:
    await world.node.volumes.create(order(capacity=10))
    record = await world.node.volumes.resize("data", 20)
    assert (record.capacity, record.spec.capacity) == (20, 20)
    with pytest.raises(InvalidRequest, match="capacity: is 19, and volume default/data has 20"):
        await world.node.volumes.resize("data", 19)
    world.volumes.kind.can = KindFacts(sizes="there are no quotas")
    with pytest.raises(WrongState, match="volume default/data cannot be resized: there are no quotas"):
        await world.node.volumes.resize("data", 30)
    world.volumes.kind.can = KindFacts(expands=True)
    world.volumes.kind.failpoints.set("expand=1*error(full)")
    with pytest.raises(Broken, match="volume default/data: resize: full"):
        await world.node.volumes.resize("data", 30)
    assert row(world).capacity == 20


async def test_it_is_told_how_full_a_volume_is_also_while_a_verb_hangs(world: World) -> None:
    await world.node.volumes.create(order(capacity=10))
    hold = world.volumes.kind.failpoints.hold("publish")
    call = asyncio.ensure_future(published(world))
    async with bounded():
        await hold.reached.wait()
        assert (await world.node.volumes.usage("data")).total == 10
        hold.release.set()
        await call


async def test_an_image_is_kept_as_long_as_a_volume_is_of_it(world: World) -> None:
    image = await world.pull("docker.io/library/busybox:latest")
    made = await world.node.volumes.create(order(kind="image", source="docker.io/library/busybox:latest"))
    assert made.record.image_id == image.id
    assert made.record.layers == tuple(layer.diff_id for layer in image.layers)
    await world.node.images.remove("docker.io/library/busybox:latest")
    await world.node.images.sweep()
    assert set(made.record.layers) <= set(world.images.layers)
    await world.node.volumes.remove("data")
    await world.node.images.sweep()
    assert not set(made.record.layers) & set(world.images.layers)


async def test_an_image_that_is_not_here_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="source: image 'nothing' is not on this node: pull it first"):
        await world.node.volumes.create(order(kind="image", source="nothing"))
    assert_nothing_is_left(world)


async def test_a_pod_without_volumes_has_nothing_to_do_with_any(world: World) -> None:
    world.volumes.ground.failpoints.calls.clear()  # of the start
    sandbox = await world.pod()
    await world.running(sandbox)
    await world.node.sandboxes.stop(sandbox)
    await world.node.sandboxes.remove(sandbox)
    assert world.volumes.kind.failpoints.names() == []
    assert world.volumes.ground.failpoints.names() == []


async def test_a_snapshot_is_kept_and_a_volume_begins_as_it(world: World) -> None:
    record = (await world.node.volumes.create(order())).record
    world.volumes.kind.there[record.id].files["a"] = b"then"
    kept = await world.node.volumes.snapshot("data", "monday")
    assert (kept.size, kept.volume, str(kept.name)) == (4, record.id, "default/monday")
    world.volumes.kind.there[record.id].files["a"] = b"later"
    assert (await world.node.volumes.snapshot("data", "monday")) == kept
    await world.node.volumes.remove("data")
    made = await world.node.volumes.create(order("again", snapshot="monday"))
    assert made.record.spec.snapshot == kept.id
    assert world.volumes.kind.there[made.record.id].files == {"a": b"then"}
    assert [one.id for one in world.node.volumes.snapshots()] == [kept.id]
    assert list(world.node.volumes.snapshots("away")) == []
    await world.node.volumes.remove_snapshot("monday")
    assert not world.volumes.kind.kept
    assert not world.records.snapshots


async def test_a_snapshot_that_does_not_fit_is_refused(world: World) -> None:
    await world.node.volumes.create(order())
    kept = await world.node.volumes.snapshot("data", "monday")
    world.records.snapshots[kept.id] = replace(kept, size=10)
    world = await world.restarted()
    for change, says in (
        ({"kind": "csi"}, "snapshot: default/monday is of a volume of kind local"),
        ({"block": True}, "snapshot: default/monday is of a volume of kind local"),
        ({"capacity": 9}, "capacity: is 9, and snapshot default/monday needs 10"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            await world.node.volumes.create(order("again", snapshot="monday", **change))
    with pytest.raises(NotFound, match="there is no snapshot 'sunday'"):
        await world.node.volumes.create(order("again", snapshot="sunday"))
    await world.node.volumes.create(order("other"))
    with pytest.raises(AlreadyExists, match="snapshot default/monday is there, of volume data"):
        await world.node.volumes.snapshot("other", "monday")
    world.volumes.kind.can = KindFacts()
    with pytest.raises(WrongState, match="volume default/other has no snapshots: its kind, local, has none"):
        await world.node.volumes.snapshot("other", "sunday")


async def test_a_volume_begins_as_another_one_where_its_kind_has_clones(world: World) -> None:
    volumes, kind = world.node.volumes, world.volumes.kind
    source = (await volumes.create(order("data", capacity=10))).record
    kind.there[source.id].files["row"] = b"now"
    with pytest.raises(WrongState, match="clone_of: kind local has no clones"):
        await volumes.create(order("copy", clone_of="data"))
    kind.can = replace(kind.can, clones=True)
    assert "clones" in (await volumes.inspect("data"))[2]
    made = (await volumes.create(order("copy", clone_of="data"))).record
    assert (made.spec.clone_of, kind.there[made.id].files) == (source.id, {"row": b"now"})
    for change, problem in (
        ({"block": True}, "clone_of: volume default/data is of kind local"),
        ({"capacity": 9}, "capacity: is 9, and volume default/data needs 10"),
        ({"snapshot": "sunday"}, "there is no snapshot 'sunday'"),
    ):
        with pytest.raises(CribError, match=problem):
            await volumes.create(order("again", clone_of="data", **change))
    kind.failpoints.set("clone=1*error(full)")
    with pytest.raises(CribError, match="full"):
        await volumes.create(order("again", clone_of="data"))
    assert sorted(kind.there) == sorted([source.id, made.id])
    await volumes.remove("data")
    again = await volumes.create(
        order("copy", clone_of="data")
    )  # as it is there, though what it was made of is not
    assert (again.is_new, again.record) == (False, made)


async def test_a_snapshot_that_fails_leaves_nothing(world: World) -> None:
    await world.node.volumes.create(order())
    world.volumes.kind.failpoints.set("snapshot=1*error(full)")
    with pytest.raises(Broken, match="volume default/data: snapshot: full"):
        await world.node.volumes.snapshot("data", "monday")
    assert not world.volumes.kind.kept
    assert not world.records.snapshots


async def test_files_of_a_volume_are_exported_and_it_is_used_meanwhile(world: World) -> None:
    await published(world)
    hold = world.volumes.archives.failpoints.hold("write")
    call = asyncio.ensure_future(world.node.volumes.export("data", "/archive"))
    async with bounded():
        await hold.reached.wait()
        assert [use.pod.uid for use in row(world).uses] == ["uid-web", "cribd-copy"]
        assert row(world).uses[1].read_only
        await world.node.volumes.unpublish("uid-web")  # pods come and go meanwhile
        await published(world)
        hold.release.set()
        assert await call == 100
    assert [use.pod.uid for use in row(world).uses] == ["uid-web"]
    with pytest.raises(AlreadyExists, match="volume default/data: export: /archive is there already"):
        await world.node.volumes.export("data", "/archive")
    assert [use.pod.uid for use in row(world).uses] == ["uid-web"]


async def test_a_raw_device_is_exported_and_what_is_another_pods_alone_is_not(world: World) -> None:
    await world.node.volumes.create(order("raw", block=True))
    assert await world.node.volumes.export("raw", "/image") == 100
    await published(world, "web", wanted(order=order(access_modes=ONE_POD)))
    with pytest.raises(WrongState, match="used by pod default/web"):
        await world.node.volumes.export("data", "/archive")


async def test_a_volume_is_made_of_an_archive_or_not_at_all(world: World) -> None:
    made, size = await world.node.volumes.load(order(), "/archive")
    assert (made.is_new, size) == (True, 50)
    assert list(world.volumes.archives.filled.values()) == ["/archive"]
    assert row(world).uses == ()
    with pytest.raises(AlreadyExists, match="volume default/data is there already"):
        await world.node.volumes.load(order(), "/archive")
    await world.node.volumes.remove("data")
    world.volumes.archives.failpoints.set("read=1*error(torn)")
    with pytest.raises(Broken, match="volume default/data: import: torn"):
        await world.node.volumes.load(order(), "/archive")
    assert_nothing_is_left(world)


async def test_the_verbs_of_one_volume_wait_for_each_other_and_not_for_those_of_another(world: World) -> None:
    hold = world.volumes.kind.failpoints.hold("create", subject="data")
    call = asyncio.ensure_future(world.node.volumes.create(order()))
    async with bounded():
        await hold.reached.wait()
        await world.node.volumes.create(order("other"))
        waits = asyncio.ensure_future(published(world))
        await turns()
        assert not waits.done()
        hold.release.set()
        await call
        await waits


async def test_each_step_is_counted_by_kind(world: World) -> None:
    await published(world)
    world.volumes.kind.failpoints.set("unpublish=1*error(no)")
    with contextlib.suppress(CribError):
        await world.node.volumes.unpublish("uid-web")
    figures = world.node.figures.volumes
    assert {("local", "create"), ("local", "stage"), ("local", "publish")} <= figures.durations.series.keys()
    assert figures.failures.counts == {("local", "unpublish"): 1}


def test_a_spec_says_the_usual_by_default() -> None:
    assert VolumeSpec("local").access_modes == (AccessMode.READ_WRITE_ONCE,)


async def test_what_an_archive_says_holds_where_nothing_else_is_asked_for(world: World) -> None:
    world.volumes.archives.descriptions["/archive"] = VolumeDescription(
        "shop/data",
        "csi",
        "of-another-node",
        "csi.example",
        capacity=5000,
        access_modes=(AccessMode.READ_WRITE_MANY,),
        labels={"app": "shop", "tier": "db"},
        parameters={"pool": "theirs"},
    )
    asked = replace(order(labels={"app": "mine"}), says_modes=False)
    made, _ = await world.node.volumes.load(asked, "/archive")
    spec = made.record.spec
    assert (spec.kind, spec.driver, dict(spec.parameters)) == ("local", "", {}), (
        "an archive chooses no driver"
    )
    assert (spec.capacity, spec.access_modes) == (5000, (AccessMode.READ_WRITE_MANY,))
    assert dict(spec.labels) == {"app": "mine", "tier": "db"}
    said = "as the archive of shop/data says: capacity 5000; access modes ReadWriteMany; labels tier"
    assert said in made.warnings
    own, _ = await world.node.volumes.load(order("own", capacity=7000, labels={"tier": "x"}), "/archive")
    assert (own.record.spec.capacity, own.record.spec.access_modes) == (
        7000,
        (AccessMode.READ_WRITE_ONCE,),
    )
    assert not [text for text in own.warnings if "tier" in text or "capacity" in text]


async def test_an_archive_whose_description_cannot_be_makes_no_volume(world: World) -> None:
    world.volumes.archives.failpoints.set("describe=1*error(nonsense)")
    with pytest.raises(Broken, match="nonsense"):
        await world.node.volumes.load(order(), "/archive")
    assert not list(world.node.volumes.list())


async def test_what_is_exported_is_described_without_secrets(world: World) -> None:
    secret = {"token": "/etc/token"}
    await world.node.volumes.create(order(capacity=4000, labels={"a": "b"}, secrets=secret))
    await world.node.volumes.export("data", "/archive")
    said = world.volumes.archives.descriptions["/archive"]
    assert (said.name, said.kind, said.labels) == ("default/data", "local", {"a": "b"})
    assert "token" not in str(said)


@pytest.mark.parametrize(
    ("gives", "group", "told"), [(True, 7, True), (True, None, False), (False, 7, False)]
)
async def test_files_have_the_pods_group_only_where_the_kind_gives_them_and_the_pod_has_one(
    world: World, gives: bool, group: int | None, told: bool
) -> None:
    world.volumes.kind.can = KindFacts(gives_group=gives)
    async with bounded():
        (one,) = await world.node.volumes.publish(replace(pod(), fs_group=group), [wanted()])
    assert one.has_group is told


async def test_a_volume_has_so_many_uses_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MAX_USES", 2)
    for name in ("a", "b", "a"):
        await published(world, name)
    with pytest.raises(Exhausted, match="volume default/data has 2 uses, which is the limit"):
        await published(world, "c")
    assert len(next(world.node.volumes.list()).uses) == 2


async def test_a_publish_that_fails_takes_nothing_from_a_pod_that_has_the_volume_already(
    world: World,
) -> None:
    await published(world)
    world.volumes.kind.failpoints.set("publish=1*error(torn)")
    with pytest.raises(Broken, match="torn"):
        await published(world)
    (row,) = world.node.volumes.list()
    assert [use.pod.name for use in row.uses] == ["web"]
    (again,) = await published(world)
    assert not again.is_new


async def test_pods_come_and_go_while_a_volume_is_exported(world: World) -> None:
    await published(world)
    hold = world.volumes.archives.failpoints.hold("write")
    call = asyncio.ensure_future(world.node.volumes.export("data", "/archive"))
    async with bounded():
        await hold.reached.wait()
        await world.node.volumes.unpublish("uid-web")
        await published(world, "other")
        hold.release.set()
        await call
    assert [use.pod.uid for use in row(world).uses] == ["uid-other"]


async def test_two_exports_at_a_time_do_not_end_each_other(world: World) -> None:
    await world.node.volumes.create(order())
    hold = world.volumes.archives.failpoints.hold("write", subject="/slow")
    slow = asyncio.ensure_future(world.node.volumes.export("data", "/slow"))
    async with bounded():
        await hold.reached.wait()
        await world.node.volumes.export("data", "/quick")
        assert len(row(world).uses) == 1
        assert row(world).stage is StageState.STAGED
        hold.release.set()
        await slow
    assert row(world).uses == ()
    assert world.volumes.kind.is_clean


async def test_the_timeline_of_a_pod_begins_with_its_volumes(world: World) -> None:
    await published(world, "web", wanted("one"), wanted("two"))
    sandbox = await world.pod()
    stages = world.node.stages(sandbox)
    names = [(stage.name, stage.subject) for stage in stages]
    (whole,) = [place for place, (name, _) in enumerate(names, 1) if name == "PublishVolumes"]
    assert {("volume create", "default/one"), ("volume stage", "default/two")} <= set(names)
    assert all(stage.parent == whole for stage in stages if stage.name.startswith("volume "))
    assert names.index(("PublishVolumes", "web")) < names.index(("RunPodSandbox", "web"))
    again = await world.pod("web", attempt=1)
    assert "PublishVolumes" not in [stage.name for stage in world.node.stages(again)]
