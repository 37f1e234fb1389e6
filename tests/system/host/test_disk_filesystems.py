"""File systems on files, made and looked at by the host's programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import clones, disk_filesystems
from crib.host.loop_devices import attached_loop, refresh_size
from crib.host.mounts import Disk, mounts_below, perform, unmount
from crib.host.processes import ProgramFailed, ToolMissing, run
from tests.disks import can_grow_ext4, mounted_disk

pytestmark = pytest.mark.root


@pytest.fixture(params=["ext4", "xfs"])
def fs_type(request: pytest.FixtureRequest) -> str:
    if shutil.which(disk_filesystems.MAKERS[request.param]) is None:
        pytest.skip(f"{request.param} cannot be made here")
    return str(request.param)


@pytest.fixture
def image(tmp_path: Path, fs_type: str) -> str:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, disk_filesystems.LEAST[fs_type])
    return str(path)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "target"
    path.mkdir()
    yield str(path)
    while unmount(str(path)):
        pass


async def test_an_empty_file_is_formatted_and_is_not_empty_any_more(image: str, fs_type: str) -> None:
    assert await disk_filesystems.signatures(image, "test") == ()
    await disk_filesystems.make(fs_type, image, "test", is_file=True)
    assert set(await disk_filesystems.signatures(image, "test")) == {fs_type}
    assert await disk_filesystems.errors(fs_type, image, "test", 60) == ""


async def test_a_partition_table_is_a_signature_too(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
    assert await disk_filesystems.signatures(str(image), "test") == ("dos",)


async def test_a_mounted_file_system_has_its_attributes_and_grows_with_its_file(
    image: str, fs_type: str, target: str
) -> None:
    await disk_filesystems.make(fs_type, image, "test", is_file=True)
    with attached_loop(image, writable=True, direct_io=True) as loop:
        await disk_filesystems.repair(fs_type, loop.path, "test", 60)
        assert not disk_filesystems.is_busy(loop.path)
        perform(Disk(target, loop.path, fs_type, ("noatime", "noexec")))
        assert disk_filesystems.is_busy(loop.path)
    (entry,) = mounts_below(target)
    assert {"rw", "nosuid", "nodev", "noexec", "noatime"} <= entry.options
    if fs_type == "ext4" and not can_grow_ext4():
        return
    before = os.statvfs(target).f_blocks * os.statvfs(target).f_frsize
    os.truncate(image, 2 * disk_filesystems.LEAST[fs_type])
    assert refresh_size(entry.source) == disk_filesystems.size_of(image)
    await disk_filesystems.grow(fs_type, entry.source, target, "test")
    await disk_filesystems.grow(fs_type, entry.source, target, "test")
    assert os.statvfs(target).f_blocks * os.statvfs(target).f_frsize > 1.5 * before


async def test_what_only_a_person_can_repair_is_not_mounted_over(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    await disk_filesystems.make("ext4", str(image), "test", is_file=True)
    for command in ("clri <2>", "set_super_value state 2"):  # no root directory, and errors noted
        (await run(["debugfs", "-w", "-R", command, str(image)])).check()
    with pytest.raises(ProgramFailed, match="e2fsck"):
        await disk_filesystems.repair("ext4", str(image), "test", 60)
    assert await disk_filesystems.errors("ext4", str(image), "test", 60) != ""


async def test_a_program_that_is_not_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_filesystems, "_PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="xfsprogs"):
        await disk_filesystems.make("xfs", str(tmp_path / "image"), "test", is_file=True)


@pytest.mark.parametrize(("kind", "shares"), [("xfs", True), ("ext4", False)])
def test_a_clone_is_made_where_the_file_system_has_them(tmp_path: Path, kind: str, shares: bool) -> None:
    with mounted_disk(tmp_path, kind) as disk:
        (disk / "a").write_bytes(os.urandom(1 << 20))
        with (disk / "a").open("rb") as source, (disk / "b").open("wb") as target:
            assert clones.clone(source.fileno(), target.fileno()) is shares
        assert (disk / "b").stat().st_size == (1 << 20 if shares else 0)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_frozen_file_system_goes_on_when_it_is_thawed(tmp_path: Path, kind: str) -> None:
    with mounted_disk(tmp_path, kind) as disk:
        assert clones.freeze(str(disk))
        assert not clones.freeze(str(disk))
        assert clones.thaw(str(disk))
        assert not clones.thaw(str(disk))
        (disk / "a").touch()
