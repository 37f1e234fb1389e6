"""What a guest's image is made of: trees as EROFS and cpio, kernels and their modules."""

from __future__ import annotations

import ctypes
import gzip
import io
import lzma
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from crib.vm.build_kernel import find_kernel
from crib.vm.build_tree import BuildFailed, Tree, write_cpio, write_erofs
from crib.vm.build_vmlinux import unwrapped
from crib.wire.erofs_reader import ErofsImage

PVH_NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(4)
VMLINUX = b"\x7fELF\x02\x01" + bytes(100) + PVH_NOTE + bytes(range(256)) * 100


def module(*needs: str) -> bytes:
    """The smallest ELF-64 with a section .modinfo."""
    text = b"license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"
    names = b"\0.modinfo\0.shstrtab\0"
    head = 64
    table = head + len(text) + len(names)
    elf = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    )
    section = struct.Struct("<IIQQQQIIQQ")
    sections = (
        section.pack(*[0] * 10),
        section.pack(1, 1, 0, 0, head, len(text), 0, 0, 1, 0),
        section.pack(10, 3, 0, 0, head + len(text), len(names), 0, 0, 1, 0),
    )
    return elf + text + names + b"".join(sections)


def kernel_root(root: Path, version: str = "6.1.0-1", modules: dict[str, bytes] | None = None) -> Path:
    (root / "boot").mkdir(parents=True, exist_ok=True)
    (root / "boot" / f"vmlinuz-{version}").write_bytes(b"kernel " + version.encode())
    place = root / "lib" / "modules" / version / "kernel"
    place.mkdir(parents=True)
    for name, data in (modules or {}).items():
        (place / name).write_bytes(data)
    (place.parent / "modules.builtin").write_text("kernel/drivers/built-in.ko\n")
    return root


def sample() -> Tree:
    tree = Tree()
    tree.file("usr/bin/program", b"#!/bin/sh\n" * 1000, 0o755)
    tree.link("bin", "usr/bin")
    tree.directory("run")
    tree.file("/usr/lib/empty", b"")
    return tree


def test_a_tree_becomes_an_erofs_that_reads_the_same() -> None:
    out = io.BytesIO()
    write_erofs(sample(), out, moment=7)
    again = io.BytesIO()
    write_erofs(sample(), again, moment=7)
    assert out.getvalue() == again.getvalue()
    assert len(out.getvalue()) % 4096 == 0
    data = out.getvalue()
    image = ErofsImage(lambda offset, size: data[offset : offset + size], len(data))
    found = {entry.path.decode(): entry.inode for entry in image.walk() if entry.path}
    program = found["usr/bin/program"]
    assert data[program.offset : program.offset + program.size] == b"#!/bin/sh\n" * 1000
    assert found["bin"].target == b"usr/bin"
    assert set(found) == {"bin", "run", "usr", "usr/bin", "usr/bin/program", "usr/lib", "usr/lib/empty"}
    assert stat.S_IMODE(found["usr/bin/program"].mode) == 0o755
    assert {inode.mtime for inode in found.values()} == {7}


@pytest.mark.skipif(shutil.which("cpio") is None and shutil.which("busybox") is None, reason="needs cpio")
def test_a_tree_becomes_a_cpio_that_cpio_unpacks(tmp_path: Path) -> None:
    out = io.BytesIO()
    write_cpio(sample(), out, moment=7)
    words = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    subprocess.run([*words, "-i", "-d"], input=out.getvalue(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "usr/bin/program").read_bytes() == b"#!/bin/sh\n" * 1000
    assert stat.S_IMODE((tmp_path / "usr/bin/program").stat().st_mode) == 0o755
    assert (tmp_path / "bin").readlink() == Path("usr/bin")
    assert (tmp_path / "run").is_dir()


def test_a_file_cannot_be_a_directory_too() -> None:
    tree = sample()
    with pytest.raises(BuildFailed, match="/usr/bin/program"):
        tree.file("usr/bin/program/below", b"")


def test_modules_come_after_those_that_they_need_however_they_are_packed(tmp_path: Path) -> None:
    modules = {
        "top-most.ko.xz": lzma.compress(module("middle", "built_in")),
        "middle.ko.gz": gzip.compress(module("bottom")),
        "bottom.ko": module(),
    }
    kernel = find_kernel(str(kernel_root(tmp_path, modules=modules)), tmp_path)
    found = kernel.closure(["top_most", "bottom", "built_in"], needed=True)
    assert [name for name, _ in found] == ["bottom", "middle", "top_most"]
    assert found[2][1] == module("middle", "built_in")
    assert kernel.closure(["none"], needed=False) == []
    with pytest.raises(BuildFailed, match="none"):
        kernel.closure(["none"], needed=True)


def test_modules_that_need_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    modules = {"a.ko": module("b"), "b.ko": module("a")}
    kernel = find_kernel(str(kernel_root(tmp_path, modules=modules)), tmp_path)
    with pytest.raises(BuildFailed, match="circle"):
        kernel.closure(["a"], needed=True)


@pytest.mark.parametrize(
    "data", [b"", b"no module", b"\x7fELF\x02\x01" + bytes(100), b"\x7fELF\x01\x01" + bytes(100)]
)
def test_a_file_that_is_no_module_is_named(tmp_path: Path, data: bytes) -> None:
    kernel = find_kernel(
        str(kernel_root(tmp_path, modules={"bad.ko": data, "torn.ko.xz": b"torn"})), tmp_path
    )
    for name in ("bad", "torn"):
        with pytest.raises(BuildFailed, match=name):
            kernel.closure([name], needed=True)


def test_the_newest_kernel_that_has_modules_is_taken(tmp_path: Path) -> None:
    for version in ("6.1.0-9", "6.1.0-57", "6.1.0-6"):
        kernel_root(tmp_path, version)
    (tmp_path / "boot" / "vmlinuz-6.12.1").write_bytes(b"without modules")
    assert find_kernel(str(tmp_path), tmp_path).version == "6.1.0-57"
    with pytest.raises(BuildFailed, match="--kernel"):
        find_kernel(str(tmp_path / "none"), tmp_path)


def test_a_kernels_package_is_unpacked(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    root = kernel_root(tmp_path / "root")
    (root / "DEBIAN").mkdir()
    control = (
        "Package: linux-image-test\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (root / "DEBIAN" / "control").write_text(control)
    package = tmp_path / "linux.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(package)], check=True, capture_output=True)
    kernel = find_kernel(str(package), tmp_path)
    assert kernel.image.read_bytes() == b"kernel 6.1.0-1"
    package.write_bytes(b"no package")
    with pytest.raises(BuildFailed, match=r"linux\.deb"):
        find_kernel(str(package), tmp_path)


def lz4_legacy(data: bytes) -> bytes:
    library = ctypes.CDLL("liblz4.so.1")
    room = ctypes.create_string_buffer(len(data) + 1000)
    packed = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 << 20):
        piece = data[at : at + (8 << 20)]
        count = library.LZ4_compress_default(piece, room, len(piece), len(room))
        packed += struct.pack("<I", count) + room.raw[:count]
    return packed + struct.pack("<I", len(data))


def wrapped(payload: bytes) -> bytes:
    image = bytearray(5 * 512)
    image[0x1F1] = 4
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 100, len(payload))
    return bytes(image) + bytes(100) + payload + b"what follows"


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lzma.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE), lz4_legacy],
    ids=["gzip", "xz", "lzma", "lz4"],
)
def test_a_kernel_is_taken_out_of_its_wrapping(pack: object) -> None:
    assert callable(pack)
    assert unwrapped(wrapped(pack(VMLINUX))) == VMLINUX


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"MZ" + bytes(2000),
        wrapped(b"\x02\x21\x4c\x18\xff\xff\xff\x7f" + bytes(50)),
        wrapped(gzip.compress(VMLINUX)[:100]),
        wrapped(gzip.compress(b"no ELF")),
        wrapped(gzip.compress(VMLINUX.replace(PVH_NOTE, bytes(len(PVH_NOTE))))),
        wrapped(b"BZh91AY"),
    ],
    ids=["nothing", "no bzImage", "torn lz4", "torn gzip", "no ELF", "no PVH entry", "another packer"],
)
def test_a_kernel_that_cannot_be_taken_out_stays_as_it_is(image: bytes) -> None:
    assert unwrapped(image) is None
