"""Files of cgroups that stay open between readings.

To open a file, read it and close it again takes eight times as long as to read one that is open, most of it
for the walk along its path. The files of a cgroup are read in one go, without a step of Python for each. But
the kernel keeps a page for each open file, and copies all descriptors for each program that is started. So
there is a bound, and what nobody reads any more is closed.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from crib.host.cgroup_files import cgroups_below, pids_in, read_whole
from crib.host.kept_descriptors import moved_up

MAX_FILES = 4096
"""Descriptors that stay open: a pod of one container has some 30. What is more is opened for each reading."""
SHARE = 4
"""That many descriptors the process may have for each of them."""
MAX_TREE = 8
"""Cgroups in one tree whose processes are read from open files: a pod may make any number of them."""
KEPT_SECONDS = 60.0
"""For which files stay open when nobody reads them."""
_READ = 65536
"""Bytes. The files with figures have two kilobytes at most, and the kernel gives them in one piece."""
_READS, _STARTS = itertools.repeat(_READ), itertools.repeat(0)


class _Set(NamedTuple):
    """Files that are read together, in one go."""

    there: tuple[str, ...]
    files: tuple[int, ...]
    missing: tuple[str, ...]


class OpenFiles:
    """Of one cgroup. For one thread at a time."""

    def __init__(self, place: Callable[[str], str]) -> None:
        """`place` gives the path of a file by its name."""
        self._place = place
        self._figures: dict[str, int] = {}
        self._sets: dict[tuple[str, ...], _Set] = {}
        self._tree: list[tuple[int, int, int]] = []
        """Of the cgroup and of each below: its directory, how many links that has, its list of processes."""
        self.read_at = 0.0

    def __len__(self) -> int:
        """Descriptors."""
        return len(self._figures) + 2 * len(self._tree)

    def contents(self, names: tuple[str, ...]) -> dict[str, bytes]:
        """What these files with figures hold; without those that are not there, or cannot be read."""
        known = self._sets.get(names)
        if known is not None:
            try:
                found = dict(zip(known.there, map(os.pread, known.files, _READS, _STARTS), strict=True))
            except OSError:  # the cgroup was removed; there may be another one of its name
                self._close_figures()
            else:
                return found | self._each(known.missing) if known.missing else found
        found = self._each(names)
        there = tuple(name for name in names if name in self._figures)
        missing = tuple(name for name in names if name not in self._figures)
        self._sets[names] = _Set(there, tuple(self._figures[name] for name in there), missing)
        return found

    def _each(self, names: Iterable[str]) -> dict[str, bytes]:
        contents = ((name, self.content(name)) for name in names)
        return {name: text for name, text in contents if text is not None}

    def content(self, name: str) -> bytes | None:
        """What one of them holds; None where it is not there, or cannot be read."""
        kept = self._figures.get(name)
        if kept is not None:
            try:
                return os.pread(kept, _READ, 0)
            except OSError:
                self._close_figures()
        try:
            fd = os.open(self._place(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            text = os.pread(fd, _READ, 0)
        except OSError:
            os.close(fd)
            return None
        self._figures[name] = moved_up(fd)
        self._sets.clear()
        return text

    def _close_figures(self) -> None:
        for fd in self._figures.values():
            os.close(fd)
        self._figures.clear()
        self._sets.clear()

    def processes(self, directory: str) -> set[int] | None:
        """Pids of the cgroup's processes and of those in cgroups below; None when it is gone."""
        found = self._in_tree() if self._tree else None
        if found is not None:
            return found
        self._close_tree()
        try:
            places = list(cgroups_below(directory))
        except FileNotFoundError:
            return None
        if len(places) <= MAX_TREE:
            self._open_tree(places)
        return {pid for place in places for pid in pids_in(place)}

    def _in_tree(self) -> set[int] | None:
        """None when the tree has changed: one of its cgroups is gone, or has more or fewer below it."""
        found: set[int] = set()
        try:
            for directory, links, processes in self._tree:
                if os.fstat(directory).st_nlink != links:
                    return None
                found.update(map(int, _list_of(processes).split()))
        except OSError:
            return None
        return found

    def _open_tree(self, places: Sequence[str]) -> None:
        below = Counter(os.path.dirname(place) for place in places)
        try:
            for place in places:
                directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    processes = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
                except OSError:
                    os.close(directory)
                    raise
                self._tree.append((moved_up(directory), below[place] + 2, moved_up(processes)))
        except OSError:  # one was removed meanwhile
            self._close_tree()

    def _close_tree(self) -> None:
        for directory, _, processes in self._tree:
            os.close(directory)
            os.close(processes)
        self._tree.clear()

    def close(self) -> None:
        """All of them."""
        self._close_figures()
        self._close_tree()


def _list_of(fd: int) -> bytes:
    try:
        return read_whole(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a threaded cgroup, whose processes show above
            return b""
        raise


class KeptFiles:
    """Of many cgroups. Safe to use by threads: what one of them reads, no other one has or closes."""

    def __init__(self, most: int = MAX_FILES) -> None:
        self._most = most
        self._kept: dict[str, OpenFiles] = {}
        self._files = 0
        """Descriptors of all that are kept."""
        self._lock = threading.Lock()

    def take(self, cgroup: str) -> OpenFiles | None:
        """The cgroup's; afterwards they, or new ones, are to be put back."""
        with self._lock:
            files = self._kept.pop(cgroup, None)
            if files is not None:
                self._files -= len(files)
            return files

    def put_back(self, cgroup: str, files: OpenFiles) -> None:
        """After the reading."""
        files.read_at = time.monotonic()
        with self._lock:
            if cgroup not in self._kept and self._files + len(files) <= self._room():
                self._kept[cgroup] = files
                self._files += len(files)
                return
        files.close()

    def _room(self) -> int:
        """A share of what the process may open, which cribd raises when it starts."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self._most if soft == resource.RLIM_INFINITY else min(self._most, soft // SHARE)

    def close_old(self, seconds: float) -> bool:
        """Those that nobody has read for so long. Whether others are left."""
        before = time.monotonic() - seconds
        with self._lock:
            old = [cgroup for cgroup, files in self._kept.items() if files.read_at <= before]
            closing = [self._kept.pop(cgroup) for cgroup in old]
            self._files -= sum(map(len, closing))
            is_left = bool(self._kept)
        for files in closing:
            files.close()
        return is_left
