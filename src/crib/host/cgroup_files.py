"""The files of cgroups and of their processes, taken apart: what is not there, or lacks a line, gives None.

Sources: kernel, admin-guide/cgroup-v1/memory, cpuacct and blkio-controller; admin-guide/cgroup-v2;
accounting/psi.
"""

from __future__ import annotations

import operator
import os
import re
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

_READ = 65536
"""Bytes. Only a cgroup of thousands of processes has a longer file."""
_MOST = 16 << 20
"""Bytes of one file, and so two million processes."""
_UNLIMITED = 1 << 62
"""v1 writes "no limit" as the largest number of whole pages."""
_DEEPEST = 32
"""Levels of cgroups below one that are looked into: the kernel has no limit of its own with v1."""
_MOST_DESCRIPTORS = 100_000
"""Descriptors that are looked at: a process may have a million of them."""
_PSI = re.compile(
    rb"^(some|full) avg10=([0-9.]+) avg60=([0-9.]+) avg300=([0-9.]+) total=([0-9]+)", re.MULTILINE
)


class PressureLine(NamedTuple):
    """One line of a pressure file: averages in percent over 10, 60 and 300 s, the total in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


class PressureStats(NamedTuple):
    """Pressure stall information of one resource; `full` is missing for the CPU in older kernels."""

    some: PressureLine
    full: PressureLine | None


class DeviceStats(NamedTuple):
    """Bytes and operations of one block device, by kind: `Read`, `Write`, `Discard` and, with v1, others."""

    major: int
    minor: int
    moved: dict[str, int]
    operations: dict[str, int]


def content(path: str) -> bytes:
    """What the file holds; nothing where it is not there or cannot be read: its controller may be off."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return read_whole(fd)
    except OSError:  # the cgroup was removed
        return b""
    finally:
        os.close(fd)


def read_whole(fd: int) -> bytes:
    """What an open file holds now. Raises OSError: ENODEV when its cgroup was removed."""
    text = os.pread(fd, _READ, 0)
    # The kernel hands long files out in pieces of some kilobytes: only an empty one is the end.
    while 4000 < len(text) < _MOST and (more := os.pread(fd, _READ, len(text))):
        text += more
    return text


def whole_number(text: bytes) -> int | None:
    """The number that a file holds; None for "max" too."""
    return int(text) if text[:1].isdigit() else None


def limit_v1(text: bytes) -> int | None:
    """A limit of cgroup v1; None for "no limit"."""
    value = whole_number(text)
    return None if value is None or value >= _UNLIMITED else value


def number(text: bytes, key: bytes) -> int | None:
    """The number in the line `key number`."""
    return Lines(key).numbers(text)[0]


class Lines:
    """Some lines of a file whose lines are `key number`.

    One kernel writes the same lines in the same order each time. So where they are is remembered, and looked
    up again only when a line of ours is not there.
    """

    def __init__(self, *keys: bytes) -> None:
        self._keys = keys
        self._order: Callable[[Sequence[bytes]], tuple[bytes, ...]] | None = None
        """Takes key and number of each of ours, one after the other, out of the words of a file."""

    def numbers(self, text: bytes) -> Sequence[int | None]:
        """In the order of the keys; None for a line that is not there."""
        words = text.split()
        if self._order is not None:
            try:
                found = self._order(words)
            except IndexError:
                found = ()
            if found[::2] == self._keys:
                return tuple(map(int, found[1::2]))
        return self._looked_up(words)

    def _looked_up(self, words: Sequence[bytes]) -> Sequence[int | None]:
        keys = words[::2]
        values = dict(zip(keys, words[1::2], strict=False))
        if all(key in values for key in self._keys):
            places = [2 * keys.index(key) for key in self._keys]
            self._order = operator.itemgetter(*(word for place in places for word in (place, place + 1)))
        return tuple(int(values[key]) if key in values else None for key in self._keys)


def pressure(text: bytes) -> PressureStats | None:
    """What a pressure file tells; None where the kernel accounts none."""
    lines = {
        kind: PressureLine(float(avg10), float(avg60), float(avg300), int(total))
        for kind, avg10, avg60, avg300, total in _PSI.findall(text)
    }
    return PressureStats(lines[b"some"], lines.get(b"full")) if b"some" in lines else None


def cgroups_below(directory: str, deepest: int = _DEEPEST) -> Iterator[str]:
    """The cgroup and all below it. FileNotFoundError when it is gone."""
    children = os.stat(directory).st_nlink - 2  # without a look at some 60 files of those that have none
    yield directory
    if children <= 0 or deepest <= 0:
        return
    with os.scandir(directory) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for child in below:
        try:
            yield from cgroups_below(child, deepest - 1)
        except FileNotFoundError:
            continue  # it was removed meanwhile


def pids_in(directory: str) -> list[int]:
    """Of the cgroup itself; none when it is gone."""
    return [int(pid) for pid in content(f"{directory}/cgroup.procs").split()]


def count_descriptors(pids: Iterable[int]) -> tuple[int, int] | None:
    """How many descriptors these processes have open, and how many of them are sockets.

    A process that has ended has none. None where there are too many to be looked at.
    """
    descriptors = sockets = 0
    for pid in pids:
        try:
            directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            names = os.listdir(directory)
            descriptors += len(names)
            if descriptors > _MOST_DESCRIPTORS:
                return None
            sockets += sum(_is_socket(name, directory) for name in names)
        except OSError:
            continue
        finally:
            os.close(directory)
    return descriptors, sockets


def soft_descriptor_limit(pids: Sequence[int]) -> int | None:
    """How many descriptors the first of these processes may have, which the others have from it.

    None without a limit, and where we may not ask.
    """
    for pid in pids:
        try:
            soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        except ProcessLookupError:
            continue
        except OSError:
            return None
        return None if soft == resource.RLIM_INFINITY else soft
    return None


def _is_socket(name: str, directory: int) -> bool:
    try:
        return os.readlink(name, dir_fd=directory).startswith("socket:")
    except OSError:
        return False  # it was closed meanwhile


def devices_v1(moved: bytes, operations: bytes) -> tuple[DeviceStats, ...] | None:
    """Of cgroup v1, in lines such as `8:0 Read 4096`."""
    if not moved or not operations:
        return None  # there is always a total
    if moved == operations == _NO_DEVICE:
        return ()
    by_moved, by_operations = _by_device_v1(moved), _by_device_v1(operations)
    return tuple(
        DeviceStats(*device, by_moved.get(device, {}), by_operations.get(device, {}))
        for device in sorted(by_moved.keys() | by_operations.keys())
    )


_NO_DEVICE = b"Total 0\n"


def _by_device_v1(text: bytes) -> dict[tuple[int, int], dict[str, int]]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for line in text.decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) == 3:  # the last line, `Total 0`, is of all devices
            major, minor = map(int, words[0].split(":"))
            found.setdefault((major, minor), {})[words[1]] = int(words[2])
    return found


_V2_KINDS = {"r": "Read", "w": "Write", "d": "Discard"}


def devices_v2(text: bytes | None) -> tuple[DeviceStats, ...] | None:
    """Of cgroup v2, in lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.

    An empty file is one without input and output; None where there is no file.
    """
    if text is None:
        return None
    found = []
    for line in text.decode("ascii", "replace").splitlines():
        device, _, rest = line.partition(" ")
        values = dict(word.split("=", 1) for word in rest.split() if "=" in word)
        if ":" not in device or not values:
            continue  # some kernels write devices without figures
        major, minor = map(int, device.split(":"))
        found.append(DeviceStats(major, minor, _by_kind(values, "bytes"), _by_kind(values, "ios")))
    return tuple(found)


def _by_kind(values: Mapping[str, str], unit: str) -> dict[str, int]:
    return {kind: int(values[letter + unit]) for letter, kind in _V2_KINDS.items() if letter + unit in values}


def huge_page_sizes(directory: str = "/sys/kernel/mm/hugepages") -> tuple[str, ...]:
    """The sizes that the kernel offers, as files of cgroups are named: `2MB`, `1GB`."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return ()
    sizes = (name.removeprefix("hugepages-").removesuffix("kB") for name in names)
    return tuple(_size_name(int(size)) for size in sizes if size.isdigit())


def _size_name(kib: int) -> str:
    """As mm/hugetlb_cgroup.c writes it."""
    if kib >= 1 << 20:
        return f"{kib >> 20}GB"
    return f"{kib >> 10}MB" if kib >= 1 << 10 else f"{kib}KB"
