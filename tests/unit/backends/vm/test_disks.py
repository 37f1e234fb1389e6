"""A container's disk: what it begins with, and how large this host says it is."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import cast

import pytest

from crib.backends.environment import SharedLayers
from crib.backends.vm.disks import VmDisks, disk_usage_here
from crib.backends.vm.environment import VmEnvironment
from crib.host.ext4_files import MAKER, make_ext4_file, used_inodes
from crib.model.ids import ContainerId, Digest
from crib.model.paths import Paths

BOX = ContainerId("box")
LAYERS = [Digest(f"sha256:{digit * 64}") for digit in "123"]
PROGRAM = shutil.which(MAKER) or "/usr/sbin/mke2fs"


class Env:
    """What the disks ask of their environment."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(f"{tmp_path}/data", f"{tmp_path}/state")
    os.makedirs(f"{made.writable_layer(BOX)}/upper/srv/here")
    os.makedirs(os.path.dirname(made.layer_file(LAYERS[0])), exist_ok=True)
    return made


@pytest.fixture
def disks(paths: Paths) -> VmDisks:
    return VmDisks(cast(VmEnvironment, Env(paths)), cast(SharedLayers, None))


def test_a_disk_begins_with_the_directories_that_the_root_was_given(
    paths: Paths, disks: VmDisks, tmp_path: Path
) -> None:
    upper, seed, disk = f"{paths.writable_layer(BOX)}/upper", str(tmp_path / "seed"), str(tmp_path / "disk")
    os.chmod(f"{upper}/srv", 0o1751)
    disks._sow(BOX, seed)
    assert stat.S_IMODE(os.stat(f"{seed}/upper/srv").st_mode) == 0o1751
    asyncio.run(make_ext4_file(PROGRAM, disk, 64 << 20, seed))
    assert os.path.getsize(disk) == 64 << 20
    assert os.stat(disk).st_blocks * 512 < 2 << 20
    assert used_inodes(disk) == 4, "upper, srv, here and work"
    said = subprocess.run(
        ("debugfs", "-R", "stat /upper/srv", disk), capture_output=True, text=True, check=True
    )
    assert "Mode:  01751" in said.stdout
    with pytest.raises(FileExistsError):
        asyncio.run(make_ext4_file(PROGRAM, disk, 64 << 20, seed))


def test_a_root_with_anything_but_directories_is_no_beginning(
    paths: Paths, disks: VmDisks, tmp_path: Path
) -> None:
    Path(paths.writable_layer(BOX), "upper", "srv", "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="nothing else"):
        disks._sow(BOX, str(tmp_path / "seed"))


def test_layers_that_are_hidden_or_no_files_are_not_given(paths: Paths, disks: VmDisks) -> None:
    for layer in LAYERS:
        Path(paths.layer_file(layer)).touch()
    mounted = [paths.layer_mount(layer) for layer in LAYERS]
    files = [paths.layer_file(layer) for layer in LAYERS]
    assert disks._files(LAYERS, mounted) == tuple(reversed(files))
    assert disks._files(LAYERS, mounted[1:]) == (files[2], files[1]), "the lowest is hidden as a whole"
    os.makedirs(paths.layer_directory(LAYERS[1]))
    assert disks._files(LAYERS, mounted) == ()


def test_bytes_that_are_no_ext4_say_nothing(paths: Paths) -> None:
    assert disk_usage_here(paths, BOX, 1) is None
    disk = Path(paths.disk(BOX))
    disk.write_bytes(b"x" * 1000)
    assert used_inodes(str(disk)) == 0
    block = bytearray(4096)
    block[1024 + 56 : 1024 + 58] = (0xEF53).to_bytes(2, "little")
    block[1024 + 16 : 1024 + 20] = b"\xff" * 4
    disk.write_bytes(block)
    found = disk_usage_here(paths, BOX, 1)
    assert found is not None
    assert (found.inodes_used, found.at) == (0, 1)
    assert found.used_bytes >= 4096
