"""The guest's kernel and its modules: found on the node, in a directory, or in a package's file."""

from __future__ import annotations

import lzma
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from crib.vm.build_tree import BuildFailed

UNPACK_SECONDS = 120.0
"""For dpkg-deb to unpack a kernel's package."""
MAX_MODULE_BYTES = 64 << 20
"""Of one module, unpacked."""
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_SECTION = struct.Struct("<IIQQQQ24x")


class Kernel:
    """One version of the kernel below a root: `root/boot/vmlinuz-VERSION` and `root/lib/modules/VERSION`."""

    def __init__(self, root: Path, version: str) -> None:
        self.version = version
        self.image = root / "boot" / f"vmlinuz-{version}"
        self._modules = root / "lib" / "modules" / version
        if not self._modules.is_dir():
            self._modules = root / "usr" / "lib" / "modules" / version
        self._files = {_name(path): path for path in sorted(self._modules.rglob("*.ko*")) if _is_module(path)}
        self._builtin = set(_builtin(self._modules / "modules.builtin"))

    def closure(self, names: Sequence[str], *, needed: bool) -> list[tuple[str, bytes]]:
        """These modules and those they need, each after those it needs: names and contents.

        What is built into the kernel is left out. BuildFailed if one is nowhere and `needed`.
        """
        found: dict[str, bytes] = {}
        for name in names:
            self._add(name, found, (), needed=needed)
        return list(found.items())

    def _add(self, name: str, found: dict[str, bytes], above: tuple[str, ...], *, needed: bool) -> None:
        name = name.replace("-", "_")
        if name in above:
            raise BuildFailed(f"modules need each other in a circle: {', '.join((*above, name))}")
        if name in found or name in self._builtin:
            return
        if (path := self._files.get(name)) is None:
            if needed:
                raise BuildFailed(
                    f"kernel {self.version} has no module {name}, neither built in nor as a file"
                )
            return
        data = _unpacked(path)
        for other in _needs(data, path):
            self._add(other, found, (*above, name), needed=True)
        found[name] = data


def find_kernel(source: str, scratch: Path) -> Kernel:
    """The newest kernel of `source`: a root directory, a .deb file (unpacked in `scratch`), or "" the node.

    BuildFailed names what was looked at.
    """
    root = Path(source or "/")
    if root.suffix == ".deb":
        root = _unpack(root, scratch)
    images = sorted((root / "boot").glob("vmlinuz-*"), key=_by_version)
    for image in reversed(images):
        version = image.name.removeprefix("vmlinuz-")
        if any((root / above / version).is_dir() for above in ("lib/modules", "usr/lib/modules")):
            return Kernel(root, version)
    raise BuildFailed(
        f"there is no kernel with its modules in {root / 'boot'} and {root / 'lib/modules'}: install one "
        "(linux-image-cloud-amd64), or name a package's file or an unpacked directory with --kernel"
    )


def _unpack(package: Path, scratch: Path) -> Path:
    target = scratch / "kernel"
    words = ["dpkg-deb", "--extract", str(package), str(target)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=UNPACK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"{package} could not be unpacked: {error}") from None
    if done.returncode:
        raise BuildFailed(f"{package} could not be unpacked: {done.stderr.strip()}")
    return target


def _by_version(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _is_module(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES)


def _name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _builtin(path: Path) -> Iterator[str]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield _name(Path(line))


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        match path.suffix:
            case ".xz":
                return lzma.LZMADecompressor().decompress(data, MAX_MODULE_BYTES)
            case ".gz":
                return zlib.decompressobj(31).decompress(data, MAX_MODULE_BYTES)
            case ".zst":
                return _unpacked_zstd(data)
    except (lzma.LZMAError, zlib.error, ValueError) as error:
        raise BuildFailed(f"the module {path} cannot be unpacked: {error}") from None
    return data


def _unpacked_zstd(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    try:
        return zstd.ZstdDecompressor().decompress(data, MAX_MODULE_BYTES)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None


def _needs(data: bytes, path: Path) -> list[str]:
    """What a module says it needs, in its section .modinfo (kernel include/linux/module.h)."""
    try:
        text = _section(data, b".modinfo")
    except (struct.error, IndexError, ValueError):
        raise BuildFailed(f"{path} is no module of a 64-bit kernel") from None
    for line in text.split(b"\0"):
        key, _, value = line.partition(b"=")
        if key == b"depends":
            return [name.decode() for name in value.split(b",") if name]
    return []


def _section(data: bytes, wanted: bytes) -> bytes:
    """An ELF section's bytes (ELF-64, little-endian)."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no ELF-64")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    heads = [_SECTION.unpack_from(data, table + size * index) for index in range(count)]
    text = heads[names][4]
    for name, _, _, _, offset, length in heads:
        begin = text + name
        if data[begin : data.index(b"\0", begin)] == wanted:
            return data[offset : offset + length]
    raise ValueError("no such section")
