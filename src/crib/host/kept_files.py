"""Files of cgroups that stay open between readings.

To open a file, read it and close it again takes eight times as long as to read one that is open, most of it
for the walk along its path. But the kernel keeps a page for each open file, and copies all descriptors for
each program that is started. So there is a bound, and what nobody reads any more is closed.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Sequence

from crib.host.cgroup_files import cgroups_below, pids_in, read_whole

MAX_CGROUPS = 256
"""Cgroups whose files stay open, about ten each. Those of others are opened for each reading."""
MAX_TREE = 8
"""Cgroups in one tree whose processes are read from open files: a pod may make any number of them."""
KEPT_SECONDS = 60.0
"""For which files stay open when nobody reads them."""
_READ = 65536
"""Bytes. The files with figures have two kilobytes at most, and the kernel gives them in one piece."""


class OpenFiles:
    """Of one cgroup. For one thread at a time."""

    def __init__(self) -> None:
        self._figures: dict[str, int] = {}
        self._tree: list[tuple[int, int, int]] = []
        """Of the cgroup and of each below: its directory, how many links that has, its list of processes."""
        self.read_at = 0.0

    def content(self, path: str) -> bytes:
        """What a file with figures holds; nothing where it is not there, or cannot be read."""
        kept = self._figures.get(path)
        if kept is not None:
            try:
                return os.pread(kept, _READ, 0)
            except OSError:  # the cgroup was removed; there may be another one of its name
                os.close(self._figures.pop(path))
        try:
            fd = self._figures[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(fd, _READ, 0)
        except OSError:
            return b""

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
                self._tree.append((directory, below[place] + 2, processes))
        except OSError:  # one was removed meanwhile
            self._close_tree()

    def _close_tree(self) -> None:
        for directory, _, processes in self._tree:
            os.close(directory)
            os.close(processes)
        self._tree.clear()

    def close(self) -> None:
        """All of them."""
        for fd in self._figures.values():
            os.close(fd)
        self._figures.clear()
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

    def __init__(self, most: int = MAX_CGROUPS) -> None:
        self._most = most
        self._kept: dict[str, OpenFiles] = {}

    def take(self, cgroup: str) -> OpenFiles:
        """The cgroup's, to be put back."""
        return self._kept.pop(cgroup, None) or OpenFiles()

    def put_back(self, cgroup: str, files: OpenFiles) -> None:
        """After the reading."""
        files.read_at = time.monotonic()
        if len(self._kept) >= self._most or self._kept.setdefault(cgroup, files) is not files:
            files.close()

    def close_old(self, seconds: float) -> bool:
        """Those that nobody has read for so long. Whether others are left."""
        before = time.monotonic() - seconds
        for cgroup, files in list(self._kept.items()):
            if files.read_at <= before and (old := self._kept.pop(cgroup, None)) is not None:
                old.close()
        return bool(self._kept)
