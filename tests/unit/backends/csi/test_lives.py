"""Lives of volumes that a driver makes and mounts, each call once, and each call twice."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from crib.host.mount_table import mounts_below
from crib.host.mounts import unmount
from crib.model.errors import InvalidRequest, NotBuilt, NotFound, WrongState
from crib.model.volumes import AccessMode, StageState, VolumePaths, VolumeUsage
from tests.csi_driver import CONTROLLER, NAME, NODE_CAN
from tests.csi_lab import CsiLab, volume_use

pytestmark = pytest.mark.root

WHOLE = [
    "CreateVolume",
    "ControllerPublishVolume",
    "NodeStageVolume",
    "NodePublishVolume",
    "NodeUnpublishVolume",
    "NodeUnstageVolume",
    "ControllerUnpublishVolume",
    "DeleteVolume",
]


def nothing_left(lab: CsiLab) -> None:
    assert lab.driver.books.data == {"volumes": {}, "snapshots": {}}
    assert mounts_below(str(lab.root)) == []
    for place in (lab.paths.volumes, lab.paths.volume_snapshots, lab.paths.volume_mounts):
        assert not os.path.isdir(place) or os.listdir(place) == []


async def test_a_volume_is_made_mounted_and_removed_in_the_order_of_the_interface(lab: CsiLab) -> None:
    life, use = lab.life(), volume_use()
    await life.create()
    await life.stage()
    path = Path(await life.publish(use))
    (path / "row").write_text("kept")
    await life.unpublish(use)
    await life.unstage()
    assert not path.exists()
    assert (lab.root / "driver" / "data" / life.record.handle / "row").read_text() == "kept"
    await life.delete()
    assert lab.calls == WHOLE
    nothing_left(lab)


async def test_every_call_may_come_twice(lab: CsiLab) -> None:
    life, use = lab.life(), volume_use()
    await life.create()
    again = await lab.kind.create(life.record, None)
    assert (again.handle, again.context) == (life.record.handle, life.record.context)
    await life.stage()
    await life.stage()
    assert await life.publish(use) == await life.publish(use)
    await life.unpublish(use)
    await life.unpublish(use)
    await life.unstage()
    await life.unstage()
    await life.delete()
    await life.delete()
    nothing_left(lab)


async def test_two_pods_have_a_volume_and_one_reads_only(lab: CsiLab) -> None:
    life = lab.life()
    await life.create()
    await life.stage()
    writer, reader = volume_use("writer"), volume_use("reader", read_only=True)
    written, read = Path(await life.publish(writer)), Path(await life.publish(reader))
    (written / "row").write_text("1")
    assert (read / "row").read_text() == "1"
    with pytest.raises(OSError, match="Read-only"):
        (read / "row").write_text("2")
    await life.unpublish(writer)
    assert (read / "row").read_text() == "1"
    await life.tear_down()
    nothing_left(lab)


async def test_a_raw_device_is_placed_at_the_target(lab: CsiLab) -> None:
    life, use = lab.life(block=True), volume_use()
    await life.create()
    await life.stage()
    path = await life.publish(use)
    assert stat.S_ISBLK(os.stat(path).st_mode)
    await life.unpublish(use)
    assert not os.path.exists(path)
    await life.tear_down()
    nothing_left(lab)


async def test_an_inline_volume_is_published_and_nothing_else(lab: CsiLab) -> None:
    life, use = lab.life(inline=True, parameters={"size": "1"}), volume_use()
    assert not (await lab.kind.facts(life.record.spec)).stages
    await life.create()
    path = Path(await life.publish(use))
    (path / "row").write_text("1")
    await life.unpublish(use)
    await life.delete()
    assert lab.calls == ["NodePublishVolume", "NodeUnpublishVolume"]
    published = next(one for name, one in lab.driver.requests if name == "NodePublishVolume")
    told = dict(published.volume_context)
    assert told == {
        "size": "1",
        "csi.storage.k8s.io/pod.name": "web",
        "csi.storage.k8s.io/pod.namespace": "default",
        "csi.storage.k8s.io/pod.uid": "uid-web",
        "csi.storage.k8s.io/serviceAccount.name": "builder",
        "csi.storage.k8s.io/ephemeral": "true",
    }
    nothing_left(lab)


async def test_a_driver_is_told_of_the_pod_where_the_settings_want_it(lab: CsiLab) -> None:
    life, quiet, told = lab.life(), volume_use("quiet"), volume_use("told")
    await life.create()
    await life.stage()
    await life.publish(quiet)
    lab.pod_info = True
    await life.publish(told)
    contexts = [dict(one.volume_context) for name, one in lab.driver.requests if name == "NodePublishVolume"]
    assert contexts[0] == life.record.context
    assert contexts[1]["csi.storage.k8s.io/pod.name"] == "told"
    assert contexts[1]["csi.storage.k8s.io/ephemeral"] == "false"
    await life.tear_down()


async def test_a_driver_that_can_is_told_the_group_of_the_pod(lab: CsiLab) -> None:
    use = volume_use()
    use = replace(use, pod=replace(use.pod, fs_group=2000))

    async def told(node: tuple[str, ...]) -> list[str]:
        lab.options.node, lab.kind = node, lab.begin()
        life = lab.life()
        await life.create()
        life.record = replace(life.record, uses=(use,))
        await life.stage()
        await life.publish(use)
        await life.tear_down()
        wanted = {"NodeStageVolume", "NodePublishVolume"}
        asked = [one.volume_capability for name, one in lab.driver.requests if name in wanted]
        return [one.mount.volume_mount_group for one in asked[-2:]]

    assert await told(NODE_CAN) == ["", ""]
    assert await told((*NODE_CAN, "VOLUME_MOUNT_GROUP")) == ["2000", "2000"]
    assert (await lab.kind.facts(lab.life().record.spec)).gives_group


async def test_a_volume_of_the_driver_is_used_as_it_is_and_left_alone(lab: CsiLab) -> None:
    theirs = lab.life()
    await theirs.create()
    life, use = lab.life(source=theirs.record.handle, parameters={"made": theirs.record.handle}), volume_use()
    await life.create()
    await life.stage()
    await life.publish(use)
    await life.tear_down()
    assert list(lab.driver.books.volumes) == [theirs.record.handle]
    with pytest.raises(NotFound, match="there is no volume gone"):
        await lab.life(source="gone").create()
    await theirs.delete()


async def test_a_driver_that_only_mounts_gets_no_other_calls(lab: CsiLab) -> None:
    lab.options.plugin, lab.options.controller, lab.options.node = (), (), ()
    lab.driver.books.volumes["share"] = {"size": 1, "attached": {}, "staged": {}, "published": {}}
    (lab.root / "driver" / "data" / "share").mkdir()
    life, use = lab.life(source="share", parameters={"made": "share"}), volume_use()
    assert not (await lab.kind.facts(life.record.spec)).stages
    await life.create()
    await life.publish(use)
    assert await lab.kind.usage(life.record) == VolumeUsage()
    await life.unpublish(use)
    await life.delete()
    assert lab.calls == ["NodePublishVolume", "NodeUnpublishVolume"]
    with pytest.raises(NotBuilt, match="makes no volumes"):
        await lab.life().create()


async def test_a_volume_that_is_attached_since_an_earlier_boot_is_detached_before_it_is_deleted(
    lab: CsiLab,
) -> None:
    """The verbs know that nothing of an earlier boot is staged any more."""
    life = lab.life()
    await life.create()
    await life.stage()
    unmount(VolumePaths(lab.paths, life.record.id).stage)
    lab.driver.books.volumes[life.record.handle]["staged"] = {}
    shutil.rmtree(lab.paths.volume_mounts)
    lab.kind = lab.begin()
    life.record = replace(life.record, stage=StageState.UNSTAGED, attachment={})
    await life.delete()
    assert lab.calls[-2:] == ["ControllerUnpublishVolume", "DeleteVolume"]
    nothing_left(lab)


async def test_how_full_a_volume_is_comes_from_its_driver(lab: CsiLab) -> None:
    life, use = lab.life(capacity=5 << 20), volume_use()
    await life.create()
    assert await lab.kind.usage(life.record) == VolumeUsage()
    await life.stage()
    (Path(await life.publish(use)) / "row").write_bytes(bytes(1000))
    usage = await lab.kind.usage(life.record)
    assert (usage.total, usage.used, usage.inodes_used, usage.problem) == (5 << 20, 1000, 3, "")
    lab.fault("NodeGetVolumeStats", "wrong", times=2)

    def make_abnormal(answer: object) -> None:
        answer.volume_condition.abnormal = True  # type: ignore[attr-defined]
        answer.volume_condition.message = "a disk is missing"  # type: ignore[attr-defined]

    lab.driver.wrong = make_abnormal
    assert (await lab.kind.usage(life.record)).problem == "a disk is missing"
    assert [one.problem for one in await lab.kind.check(life.record)] == ["a disk is missing"]
    assert await lab.kind.check(life.record) == []
    await life.tear_down()


async def test_a_volume_grows_while_it_is_used(lab: CsiLab) -> None:
    life, use = lab.life(), volume_use()
    await life.create()
    await life.stage()
    await life.publish(use)
    assert await lab.kind.expand(life.record, 3 << 20) == 3 << 20
    assert lab.calls[-2:] == ["ControllerExpandVolume", "NodeExpandVolume"]
    assert lab.driver.books.volumes[life.record.handle]["grown"] == 3 << 20
    await life.tear_down()
    nothing_left(lab)


async def test_the_node_does_its_part_of_an_expansion_when_the_volume_is_staged_next(lab: CsiLab) -> None:
    life = lab.life()
    await life.create()
    assert await lab.kind.expand(life.record, 3 << 20) == 3 << 20
    assert lab.calls[-1] == "ControllerExpandVolume"
    lab.kind = lab.begin()
    await life.stage()
    assert lab.calls[-1] == "NodeExpandVolume"
    await life.stage()
    assert lab.calls.count("NodeExpandVolume") == 1
    await life.tear_down()
    nothing_left(lab)


@pytest.mark.parametrize("block", [False, True])
async def test_the_node_does_its_part_when_it_is_published_where_no_stage_has_it(
    lab: CsiLab, block: bool
) -> None:
    """A raw device is at the target only."""
    if not block:
        lab.options.node = tuple(one for one in NODE_CAN if one != "STAGE_UNSTAGE_VOLUME")
    life, use = lab.life(block=block), volume_use()
    await life.create()
    await lab.kind.expand(life.record, 3 << 20)
    await life.stage()
    await life.publish(use)
    assert lab.calls[-1] == "NodeExpandVolume"
    await life.tear_down()
    nothing_left(lab)


async def test_a_driver_that_expands_offline_only_is_not_asked_while_a_volume_is_used(
    lab: CsiLab,
) -> None:
    lab.options.expansion = "OFFLINE"
    life = lab.life()
    await life.create()
    await life.stage()
    with pytest.raises(WrongState, match="only while no pod uses it"):
        await lab.kind.expand(life.record, 3 << 20)
    await life.unstage()
    assert await lab.kind.expand(life.record, 3 << 20) == 3 << 20
    await life.tear_down()


async def test_a_snapshot_is_restored_after_its_volume_has_gone(lab: CsiLab) -> None:
    lab.options.ready_after = lab.driver._not_yet = 2
    life, use = lab.life(), volume_use()
    await life.create()
    (lab.root / "driver" / "data" / life.record.handle / "row").write_text("then")
    snapshot = lab.snapshot_of(life.record)
    made = await lab.kind.snapshot(life.record, snapshot)
    assert (made.usable, lab.calls.count("CreateSnapshot")) == (True, 3)
    snapshot = replace(snapshot, handle=made.handle, size=made.size, usable=True)
    await life.delete()
    restored = lab.life(snapshot=snapshot.id)
    await restored.create(snapshot)
    await restored.stage()
    assert (Path(await restored.publish(use)) / "row").read_text() == "then"
    await restored.tear_down()
    await lab.kind.delete_snapshot(snapshot)
    await lab.kind.delete_snapshot(snapshot)
    nothing_left(lab)


async def test_a_volume_begins_as_another_one_by_one_call(lab: CsiLab) -> None:
    life, use = lab.life(), volume_use()
    await life.create()
    (lab.root / "driver" / "data" / life.record.handle / "row").write_text("now")
    copy = lab.life(clone_of=life.record.id)
    with pytest.raises(NotBuilt, match="clones no volumes"):
        await copy.create(life.record)
    lab.options.controller = (*CONTROLLER, "CLONE_VOLUME")
    lab.kind = lab.begin()  # what a driver can is asked once a minute
    assert (await lab.kind.facts(copy.record.spec)).clones
    await copy.create(life.record)
    await copy.create(life.record)  # as after a kill before its answer was recorded
    assert lab.calls.count("CreateSnapshot") == 0
    await life.delete()
    await copy.stage()
    assert (Path(await copy.publish(use)) / "row").read_text() == "now"
    await copy.tear_down()
    nothing_left(lab)


@pytest.mark.parametrize(
    ("modes", "counts", "expected"),
    [
        ((AccessMode.READ_WRITE_ONCE,), False, "SINGLE_NODE_WRITER"),
        ((AccessMode.READ_WRITE_ONCE,), True, "SINGLE_NODE_MULTI_WRITER"),
        ((AccessMode.READ_WRITE_ONCE_POD,), False, "SINGLE_NODE_WRITER"),
        ((AccessMode.READ_WRITE_ONCE_POD,), True, "SINGLE_NODE_SINGLE_WRITER"),
        ((AccessMode.READ_ONLY_MANY,), True, "MULTI_NODE_READER_ONLY"),
        ((AccessMode.READ_WRITE_ONCE, AccessMode.READ_ONLY_MANY), False, "MULTI_NODE_SINGLE_WRITER"),
        ((AccessMode.READ_WRITE_ONCE, AccessMode.READ_WRITE_MANY), True, "MULTI_NODE_MULTI_WRITER"),
    ],
)
async def test_access_modes_become_the_one_that_allows_them_all(
    lab: CsiLab, modes: tuple[AccessMode, ...], counts: bool, expected: str
) -> None:
    if counts:
        lab.options.node = (*NODE_CAN, "SINGLE_NODE_MULTI_WRITER")
    life = lab.life(access_modes=modes, fs_type="ext4", mount_options=("noatime",))
    await life.create()
    asked = lab.driver.requests[-1][1].volume_capabilities[0]
    assert type(asked.access_mode).Mode.Name(asked.access_mode.mode) == expected
    assert (asked.mount.fs_type, list(asked.mount.mount_flags)) == ("ext4", ["noatime"])
    await life.delete()


async def test_a_driver_is_told_where_this_node_is_where_that_matters(lab: CsiLab) -> None:
    lab.options.plugin = ("CONTROLLER_SERVICE", "VOLUME_ACCESSIBILITY_CONSTRAINTS")
    lab.options.topology = {"zone": "a"}
    lab.options.created_topology = {"zone": "a"}
    life = lab.life()
    await life.create()
    wanted = lab.driver.requests[-1][1].accessibility_requirements
    assert dict(wanted.requisite[0].segments) == dict(wanted.preferred[0].segments) == {"zone": "a"}
    await life.delete()


async def test_what_can_be_done_is_what_the_driver_says(lab: CsiLab) -> None:
    facts = await lab.kind.facts(lab.life().record.spec)
    assert (facts.expands, facts.snapshots, facts.stages, facts.sizes) == (True, True, True, "")
    (status,) = await lab.kind.drivers()
    assert (status.name, status.version, status.ready, status.most_volumes) == (NAME, "1.2.3", True, 16)
    assert "controller CREATE_DELETE_VOLUME" in status.capabilities
    assert "node STAGE_UNSTAGE_VOLUME" in status.capabilities


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"secrets": {"a/b": "/x"}}, "secrets.a/b"),
        ({"block": True, "fs_type": "ext4"}, "fs_type"),
        ({"inline": True, "block": True}, ""),
    ],
)
async def test_what_no_driver_can_do_is_refused_without_asking_one(
    lab: CsiLab, spec: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await lab.kind.check_spec(lab.life(**spec).record.spec)
    assert caught.value.field == field
    assert lab.driver.books.calls() == []


async def test_a_driver_that_the_settings_do_not_have_is_named(lab: CsiLab) -> None:
    spec = replace(lab.life().record.spec, driver="other.csi")
    with pytest.raises(InvalidRequest, match=r"no driver 'other\.csi'"):
        await lab.kind.check_spec(spec)
    with pytest.raises(WrongState, match=r"no driver 'other\.csi'"):
        await lab.kind.facts(spec)


async def test_paths_that_drivers_get_are_not_too_long_for_any(lab: CsiLab) -> None:
    life, use = lab.life(), volume_use("a-name-" * 8)
    target = VolumePaths(replace(lab.paths, state="/run/crib"), life.record.id).published(use)
    assert len(target) <= 128
