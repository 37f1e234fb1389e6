"""Disks for containers of a VM's shim: layers of an image, what is written to, block devices."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from crib.host.ext4_files import make_ext4_file
from crib.vm.build_tree import Tree, write_erofs
from crib.vm.shim.disk_note import FILE, BlockVolume, DiskNote, encode_note

APPLETS = ("sh", "cat", "echo", "dd", "ls", "rm", "sync", "sleep", "true", "head", "seq", "touch")
MAKER = shutil.which("mke2fs") or "/usr/sbin/mke2fs"


def make_layers(directory: Path) -> tuple[str, str]:
    """Two files with EROFS, the topmost first: it hides the other's /hidden. And users."""
    base, top = Tree(), Tree()
    busybox = shutil.which("busybox")
    assert busybox is not None
    base.file("bin/busybox", Path(busybox), 0o755)
    for name in APPLETS:
        base.link(f"bin/{name}", "busybox")
    for name in ("dev", "proc", "sys", "etc"):
        base.directory(name)
    base.file("hidden", b"of the base\n")
    top.file("hidden", b"of the top\n")
    top.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    paths = str(directory / "top.erofs"), str(directory / "base.erofs")
    for path, tree in zip(paths, (top, base), strict=True):
        if not os.path.exists(path):
            with open(path, "wb") as file:
                write_erofs(tree, file, 0)
    return paths


async def make_disk(directory: Path, size: int) -> str:
    """An empty one."""
    seed, path = directory / "seed", directory / "disk"
    for name in ("upper", "work"):
        (seed / name).mkdir(parents=True)
    await make_ext4_file(MAKER, str(path), size, str(seed))
    return str(path)


def write_note(bundle: str, layers: tuple[str, ...], disk: str, *volumes: BlockVolume) -> None:
    """What the shim reads in a container's bundle."""
    Path(bundle, FILE).write_bytes(encode_note(DiskNote(layers, disk, volumes)))


@contextlib.contextmanager
def block_device(file: Path, size: int) -> Iterator[str]:
    """A loop device over a file, which has gone at the end."""
    with file.open("wb") as made:
        made.truncate(size)
    words = ("losetup", "--find", "--show", str(file))
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(("losetup", "--detach", device), check=True)


def open_files(pid: int) -> list[str]:
    """Paths that a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found
