"""Volumes of kind `block` on real files and loop devices."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.volumes import disks
from crib.backends.volumes.block import BlockVolumes
from crib.host import clones, disk_filesystems, mounts
from crib.host.disk_filesystems import size_of
from crib.host.loop_devices import attach_loop, detach_loop, find_loops
from crib.host.mount_table import is_mountpoint, mounts_below
from crib.model.errors import Broken, Exhausted, InvalidRequest, NotFound, WrongState
from crib.model.paths import Paths
from crib.model.volumes import VolumeRecord, VolumeSpec
from tests.disks import can_grow_ext4, mounted_disk
from tests.system.labs.daemon import until
from tests.system.labs.volume_lab import VolumeLab, use_by

pytestmark = pytest.mark.root

SIZE = 16 << 20
LET_GO_SECONDS = 30
EXT4 = VolumeSpec("block", capacity=SIZE)
SWAP = bytes(1024) + struct.pack("<II", 1, 4095) + bytes(3054) + b"SWAPSPACE2"
RAW = VolumeSpec("block", capacity=SIZE, block=True)


@pytest.fixture
def lab(private_root: Path) -> Iterator[VolumeLab]:
    yield from opened(private_root / "state", private_root / "data")


def opened(state: Path, data: Path) -> Iterator[VolumeLab]:
    paths = Paths(str(data), str(state))
    os.makedirs(paths.volume_mounts)
    mounts.make_private_root(paths.volume_mounts)
    lab = VolumeLab(BlockVolumes(paths), paths)
    yield lab
    lab.close()


@pytest.fixture
def cloning(private_root: Path) -> Iterator[VolumeLab]:
    """Its data directory is on a disk whose files can share blocks."""
    with mounted_disk(private_root, "xfs") as disk:
        yield from opened(private_root / "other", disk / "data")


@pytest.fixture
def disk(private_root: Path) -> Iterator[str]:
    """A device that is nobody's."""
    path = private_root / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    device = attach_loop(str(path)).path
    yield device
    detach_loop(device)


async def let_go(path: str) -> None:
    """Until no loop device has that file: another worker's mount namespace may have a copy of its mount."""
    await until(lambda: not find_loops(path), LET_GO_SECONDS)


def holds(device: str, data: bytes) -> None:
    fd = os.open(device, os.O_RDWR)
    try:
        os.pwrite(fd, data, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


async def test_what_one_pod_writes_the_next_one_reads_and_nothing_is_left(lab: VolumeLab) -> None:
    record = await lab.new(EXT4)
    assert record.capacity == SIZE
    record = await lab.staged(record)
    first, second = use_by("first"), use_by("second", read_only=True)
    path = await lab.kind.publish(record, first)
    Path(path, "file").write_text("hello")
    other = await lab.kind.publish(record, second)
    assert Path(other, "file").read_text() == "hello"
    with pytest.raises(OSError, match="Read-only"):
        Path(other, "file").write_text("no")
    (entry,) = mounts_below(path)
    assert {"nosuid", "nodev"} <= entry.options
    for use in (first, second):
        await lab.kind.unpublish(record, use)
        await lab.kind.unpublish(record, use)
    record = await lab.unstaged(record)
    await let_go(lab.of(record).file)
    record = await lab.staged(record)
    assert Path(lab.of(record).stage, "file").read_text() == "hello"
    record = await lab.unstaged(record)
    await lab.kind.delete(record)
    await lab.kind.delete(record)
    assert not os.path.lexists(lab.of(record).lasting)


async def test_every_step_can_come_twice(lab: VolumeLab) -> None:
    record = await lab.new(EXT4)
    Path(lab.of(record).file).touch()
    assert (await lab.kind.create(record, None)).capacity == SIZE
    for _ in range(2):
        record = await lab.staged(record)
    assert len(mounts_below(lab.of(record).stage)) == 1
    use = use_by("pod")
    paths = [await lab.kind.publish(record, use) for _ in range(2)]
    assert paths[0] == paths[1]
    assert len(mounts_below(paths[0])) == 1
    read_only = replace(use, read_only=True)
    assert await lab.kind.publish(record, read_only) == paths[0]
    assert mounts_below(paths[0])[0].read_only
    await lab.kind.unpublish(record, use)
    for _ in range(2):
        record = await lab.unstaged(record)


async def test_a_file_that_was_half_made_is_made_again(lab: VolumeLab) -> None:
    record = await lab.new(EXT4)
    whole = lab.of(record).file
    os.rename(whole, whole + disks.PARTIAL)
    os.truncate(whole + disks.PARTIAL, 4096)
    assert (await lab.kind.create(record, None)).capacity == SIZE
    record = await lab.unstaged(await lab.staged(record))
    assert os.listdir(lab.of(record).lasting) == ["file"]


@pytest.mark.parametrize("allocation", ["sparse", "full"])
async def test_a_file_takes_its_blocks_when_its_parameter_says(lab: VolumeLab, allocation: str) -> None:
    record = await lab.new(replace(RAW, parameters={"allocation": allocation}))
    kept = await lab.snapshot(record)
    again = await lab.new(record.spec, kept, name="again")
    for one in (record, again):
        usage = await lab.kind.usage(one)
        assert usage.total == SIZE
        assert usage.used == (0 if allocation == "sparse" else SIZE)


async def test_a_full_disk_is_told_and_nothing_is_kept(private_root: Path) -> None:
    with mounted_disk(private_root, "ext4") as disk:
        for lab in opened(private_root / "state", disk / "data"):
            with pytest.raises(Exhausted, match="are needed"):
                await lab.new(VolumeSpec("block", capacity=1 << 30, parameters={"allocation": "full"}))
            await lab.kind.delete(lab.made[0])
            assert os.listdir(lab.paths.volumes) == []


async def test_a_raw_device_holds_what_its_file_holds(lab: VolumeLab) -> None:
    record = await lab.staged(await lab.new(RAW))
    use = use_by("vm")
    path = await lab.kind.publish(record, use)
    assert find_loops(lab.of(record).file) == [path]
    holds(path, b"raw!" + bytes(508))
    assert Path(lab.of(record).file).read_bytes()[:4] == b"raw!"
    detach_loop(path)  # as after a reboot
    record = await lab.staged(record)
    assert await lab.kind.publish(record, use) in find_loops(lab.of(record).file)
    await lab.kind.unpublish(record, use)
    record = await lab.unstaged(record)
    await let_go(lab.of(record).file)


async def test_an_empty_device_is_formatted_once_and_keeps_what_is_on_it(lab: VolumeLab, disk: str) -> None:
    record = await lab.staged(await lab.new(VolumeSpec("block", source=disk)))
    Path(lab.of(record).stage, "file").write_text("mine")
    record = await lab.unstaged(record)
    await lab.kind.delete(record)
    again = await lab.staged(await lab.new(VolumeSpec("block", source=disk), name="again"))
    assert Path(lab.of(again).stage, "file").read_text() == "mine"
    again = await lab.unstaged(again)
    holds(disk, bytes(64 << 10))
    with pytest.raises(WrongState, match="lost its file system"):
        await lab.staged(again)


@pytest.mark.parametrize(
    ("content", "words"),
    [(bytes(510) + b"\x55\xaa", "dos"), (SWAP, "swap")],
    ids=["partitions", "swap"],
)
async def test_a_device_with_anything_on_it_is_never_formatted(
    lab: VolumeLab, disk: str, content: bytes, words: str
) -> None:
    holds(disk, content)
    record = await lab.new(VolumeSpec("block", source=disk))
    with pytest.raises(WrongState, match=words):
        await lab.staged(record)
    assert not is_mountpoint(lab.of(record).stage)


async def test_a_device_that_somebody_has_mounted_is_not_used(
    lab: VolumeLab, disk: str, private_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.backends.volumes.block.FREE_TRIES", 1)
    await disk_filesystems.make("ext4", disk, "test", is_file=False)
    (private_root / "mine").mkdir()
    mounts.perform(mounts.Disk(str(private_root / "mine"), disk, "ext4"))
    try:
        with pytest.raises(WrongState, match="in use"):
            await lab.staged(await lab.new(VolumeSpec("block", source=disk)))
    finally:
        mounts.unmount(str(private_root / "mine"))


async def test_a_raw_file_that_somebody_has_mounted_is_not_used(lab: VolumeLab, private_root: Path) -> None:
    path = private_root / "theirs"
    path.touch()
    os.truncate(path, SIZE)
    await disk_filesystems.make("ext4", str(path), "test", is_file=True)
    (private_root / "mine").mkdir()
    source = disks.look(str(path))
    disks.mount(source, str(private_root / "mine"), "ext4", ())
    try:
        with pytest.raises(WrongState, match="in use"):
            await lab.staged(await lab.new(VolumeSpec("block", source=str(path), block=True)))
    finally:
        disks.unmount(str(private_root / "mine"))


async def test_a_file_that_is_attached_elsewhere_is_not_used(
    lab: VolumeLab, private_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.backends.volumes.block.FREE_TRIES", 1)
    path = private_root / "theirs"
    path.touch()
    os.truncate(path, SIZE)
    device = attach_loop(str(path)).path
    try:
        with pytest.raises(WrongState, match=device):
            await lab.staged(await lab.new(VolumeSpec("block", source=str(path))))
    finally:
        detach_loop(device)


async def test_what_cannot_be_is_refused_by_its_field(lab: VolumeLab, private_root: Path) -> None:
    wrong = {
        "capacity": VolumeSpec("block"),
        "fs_type": replace(EXT4, fs_type="btrfs"),
        "source": VolumeSpec("block", source="disk"),
        "parameters.allocation": replace(EXT4, parameters={"allocation": "thin"}),
        "parameters.size": replace(EXT4, parameters={"size": "1"}),
        "mount_options": replace(EXT4, mount_options=("suid",)),
    }
    for field, spec in wrong.items():
        with pytest.raises(InvalidRequest) as caught:
            await lab.kind.check_spec(spec)
        assert caught.value.field == field
    with pytest.raises(NotFound, match="is not there"):
        await lab.new(VolumeSpec("block", source=str(private_root / "none")))
    with pytest.raises(WrongState, match="neither a file nor"):
        await lab.new(VolumeSpec("block", source=str(private_root)))


async def test_a_volume_grows_while_it_is_used(cloning: VolumeLab) -> None:
    lab = cloning
    if not can_grow_ext4():
        pytest.skip("growing a mounted ext4 takes CAP_SYS_RESOURCE")
    record = await lab.staged(await lab.new(EXT4))
    before = (await lab.kind.usage(record)).total or 0
    assert await lab.kind.expand(record, 3 * SIZE) == 3 * SIZE
    assert ((await lab.kind.usage(record)).total or 0) > 2 * before
    await lab.unstaged(record)


async def test_a_raw_device_grows_and_an_unused_volume_too(lab: VolumeLab) -> None:
    record = await lab.staged(await lab.new(RAW))
    assert await lab.kind.expand(record, 3 * SIZE) == 3 * SIZE
    (device,) = find_loops(lab.of(record).file)
    assert size_of(device) == 3 * SIZE
    record = await lab.unstaged(record)
    assert await lab.kind.expand(record, 2 * SIZE) == 3 * SIZE


async def test_a_device_grows_only_with_its_owner(lab: VolumeLab, disk: str) -> None:
    record = await lab.new(VolumeSpec("block", source=disk, block=True))
    with pytest.raises(InvalidRequest, match="make it larger first"):
        await lab.kind.expand(record, 2 * SIZE)
    assert await lab.kind.expand(record, SIZE) == SIZE


@pytest.mark.parametrize("where", ["lab", "cloning"])
async def test_a_snapshot_is_what_was_there_and_becomes_another_volume(
    request: pytest.FixtureRequest, where: str
) -> None:
    lab: VolumeLab = request.getfixturevalue(where)
    record = await lab.staged(await lab.new(EXT4))
    file = Path(lab.of(record).stage, "file")
    file.write_text("before")
    kept = await lab.snapshot(record)
    file.write_text("after")
    assert kept.size == SIZE
    restored = await lab.staged(await lab.new(EXT4, kept, name="restored"))
    assert Path(lab.of(restored).stage, "file").read_text() == "before"
    assert file.read_text() == "after"
    for one in (record, restored):
        await lab.unstaged(one)
    await lab.kind.delete_snapshot(kept)
    await lab.kind.delete_snapshot(kept)
    assert os.listdir(lab.paths.volume_snapshots) == []


async def test_a_snapshot_that_takes_too_long_lets_pods_go_on(
    lab: VolumeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.backends.volumes.block.FROZEN_SECONDS", 0)
    record = await lab.staged(await lab.new(EXT4))
    with pytest.raises(Broken, match="takes longer than 0 s"):
        await lab.snapshot(record)
    Path(lab.of(record).stage, "file").write_text("goes on")
    await lab.unstaged(record)


async def test_a_raw_device_in_use_is_cloned_or_not_kept(lab: VolumeLab, cloning: VolumeLab) -> None:
    for one, can in ((lab, False), (cloning, True)):
        record = await one.staged(await one.new(RAW))
        used = replace(record, uses=(use_by("vm"),))
        with contextlib.nullcontext() if can else pytest.raises(WrongState, match="stop its pods"):
            assert (await one.snapshot(used)).size == SIZE
        assert (await one.snapshot(record, "unused")).size == SIZE
        await one.unstaged(record)


async def test_what_a_killed_daemon_left_frozen_goes_on_when_it_is_staged_again(lab: VolumeLab) -> None:
    record = await lab.staged(await lab.new(EXT4))
    assert clones.freeze(lab.of(record).stage)
    record = await lab.staged(record)
    Path(lab.of(record).stage, "file").write_text("goes on")
    kept = await lab.snapshot(record)
    assert clones.freeze(lab.of(record).stage)
    await lab.kind.delete_snapshot(replace(kept, usable=False))  # as the next start does with a half-made one
    Path(lab.of(record).stage, "file").write_text("goes on again")
    await lab.unstaged(record)


async def test_the_file_of_a_volume_that_lost_its_file_system_is_not_formatted_again(lab: VolumeLab) -> None:
    record = await lab.new(EXT4)
    holds(lab.of(record).file, bytes(64 << 10))
    with pytest.raises(WrongState, match="lost its file system"):
        await lab.staged(record)


async def test_what_no_program_repairs_is_not_mounted(lab: VolumeLab) -> None:
    record = await lab.new(EXT4)
    damage(lab.of(record).file)
    assert "errors" in await problem(lab, record)
    with pytest.raises(Broken, match="e2fsck"):
        await lab.staged(record)


def damage(path: str) -> None:
    for command in ("clri <2>", "set_super_value state 2"):
        subprocess.run(["debugfs", "-w", "-R", command, path], check=True, capture_output=True)


async def problem(lab: VolumeLab, record: VolumeRecord) -> str:
    """What `check` finds; empty when all is well."""
    return "; ".join(one.problem for one in await lab.kind.check(record))


async def test_a_check_finds_what_is_not_as_the_record_says(lab: VolumeLab, disk: str) -> None:
    record = await lab.new(EXT4)
    assert await problem(lab, record) == ""
    staged = await lab.staged(record)
    assert await problem(lab, staged) == ""
    stage = lab.of(record).stage
    mounts.unmount(stage)
    assert "not mounted" in await problem(lab, staged)
    await disk_filesystems.make("ext4", disk, "test", is_file=False)
    mounts.perform(mounts.Disk(stage, disk, "ext4"))
    assert disk in await problem(lab, staged)
    with pytest.raises(WrongState, match="not its place"):
        await lab.staged(record)
    mounts.unmount(stage)
    os.truncate(lab.of(record).file, SIZE // 2)
    assert f"had {SIZE}" in await problem(lab, record)
    os.unlink(lab.of(record).file)
    assert "is not there" in await problem(lab, record)


async def test_a_volume_that_somebody_works_in_is_not_unstaged(lab: VolumeLab) -> None:
    record = await lab.staged(await lab.new(EXT4))
    worker = os.open(lab.of(record).stage, os.O_RDONLY)
    try:
        with pytest.raises(WrongState, match="busy"):
            await lab.unstaged(record)
    finally:
        os.close(worker)
    await lab.unstaged(record)


async def test_an_xfs_is_mounted_beside_what_was_restored_from_it_and_grows(lab: VolumeLab) -> None:
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed")
    least = disk_filesystems.LEAST["xfs"]
    spec = VolumeSpec("block", capacity=least, fs_type="xfs")
    record = await lab.staged(await lab.new(spec))
    Path(lab.of(record).stage, "file").write_text("kept")
    kept = await lab.snapshot(record)
    larger = await lab.staged(await lab.new(replace(spec, capacity=2 * least), kept, name="larger"))
    assert Path(lab.of(larger).stage, "file").read_text() == "kept"
    totals = [(await lab.kind.usage(one)).total or 0 for one in (record, larger)]
    assert totals[1] > 1.5 * totals[0]
    assert await lab.kind.expand(record, 2 * least) == 2 * least
    assert ((await lab.kind.usage(record)).total or 0) > 1.5 * totals[0]
    for one in (record, larger):
        await lab.unstaged(one)
