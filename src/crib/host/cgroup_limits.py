"""Changing several limits of a cgroup: all of them, or none.

The kernel refuses values that do not fit each other at that moment (with cgroup v1 a memory limit above the
limit of memory and swap, a quota below what its new period allows: EINVAL). Which order is right depends on
what is there, so whatever is refused is tried again after the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from crib.host.cgroups import Cgroups

_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
_LONGEST_LIST = 8192
"""CPUs or memory nodes: the kernel's NR_CPUS at most."""

Files = Sequence[tuple[str, str]]


def write_limits(cgroups: Cgroups, path: str, files: Files) -> Files:
    """Write every file of the cgroup at `path`, or none; what they held before, for `restore_limits`.

    OSError naming the file and the value that was refused; what had been written has its old value again.
    Blocks as long as the kernel takes to reclaim what a lower memory limit does not leave room for.
    """
    undo: list[tuple[str, str]] = []
    try:
        _write_all(cgroups, path, files, undo)
    except OSError:
        restore_limits(cgroups, path, undo[::-1])
        raise
    return undo[::-1]


def _write_all(cgroups: Cgroups, path: str, files: Files, undo: list[tuple[str, str]]) -> None:
    # With v2 a set of CPUs cannot be made empty again as long as there are processes: it comes last.
    waiting = sorted(files, key=lambda file: file[0] in _CPUSET_FILES)
    while waiting:
        refused: list[tuple[str, str]] = []
        problem: OSError | None = None
        for key, value in waiting:
            before = cgroups.read(path, key).strip()
            try:
                _write(cgroups, path, key, value)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                refused.append((key, value))
                problem = problem or error
            else:
                undo.append((key, before))
        if problem is not None and len(refused) == len(waiting):
            raise problem
        waiting = refused


def restore_limits(cgroups: Cgroups, path: str, files: Files) -> None:
    """Put back what `write_limits` found."""
    # Twice, for the order of values that depend on each other.
    for _ in range(2):
        for key, value in files:
            with contextlib.suppress(OSError):
                _write(cgroups, path, key, value or _all_of(cgroups, path, key))


def _all_of(cgroups: Cgroups, path: str, key: str) -> str:
    """What an empty set of CPUs or memory nodes means in v2."""
    return cgroups.read(os.path.dirname(path), f"{key}.effective").strip()


def _write(cgroups: Cgroups, path: str, key: str, value: str) -> None:
    if key in _CPUSET_FILES and cgroups.layout.mode != "v2":
        _write_cpuset(cgroups, path, key, value)
    else:
        cgroups.write(path, key, value)


def _write_cpuset(cgroups: Cgroups, path: str, key: str, value: str) -> None:
    """With v1 a child's set must lie within its parent's: it is first widened, then narrowed from below."""
    below = _children(cgroups.directory(path, "cpuset"))
    wanted = parse_list(value)
    if below:
        before = cgroups.read(path, key).strip()
        cgroups.write(path, key, ",".join(filter(None, (before, value))))
        for name in below:
            child = f"{path}/{name}"
            kept = parse_list(cgroups.read(child, key).strip()) & wanted
            _write_cpuset(cgroups, child, key, ",".join(map(str, sorted(kept))) or value)
    cgroups.write(path, key, value)


def _children(directory: str) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def parse_list(text: str) -> set[int]:
    """The numbers of a list such as `0-2,5` (cpuset(7), List format); OSError (EINVAL) if it is malformed."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            raise OSError(errno.EINVAL, f"not a list of numbers: {text!r}") from None
        if not 0 <= low <= high <= _LONGEST_LIST:
            raise OSError(errno.EINVAL, f"not a list of numbers: {text!r}")
        found.update(range(low, high + 1))
    return found
