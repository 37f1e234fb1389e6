"""The cgroups of a run: looked into, and removed, in every hierarchy."""

from __future__ import annotations

import os

ROOT = "/sys/fs/cgroup"
_PROCESSES = "cgroup.procs"


def hierarchies() -> list[str]:
    """The root of version 2, and those of version 1 below it."""
    return [ROOT, *(entry.path for entry in os.scandir(ROOT) if entry.is_dir())]


def named(beginning: str) -> set[str]:
    """Names of the hierarchies' top cgroups that begin so."""
    found = set()
    for root in hierarchies():
        found |= {entry.name for entry in os.scandir(root) if entry.name.startswith(beginning)}
    return found


def with_processes(path: str) -> list[str]:
    """Directories at or below a cgroup's path that hold a process, in any hierarchy."""
    found = []
    for root in hierarchies():
        for directory, _, files in os.walk(os.path.join(root, path.lstrip("/"))):
            if _PROCESSES in files and _has_process(os.path.join(directory, _PROCESSES)):
                found.append(directory)
    return found


def _has_process(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return bool(file.read(1))
    except OSError:
        return False  # it is a threaded one, or has just gone


def remove(name: str) -> None:
    """A cgroup of the hierarchies' roots with all that is below it; one with a process stays."""
    for root in hierarchies():
        for directory, _, _ in os.walk(os.path.join(root, name), topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass  # a process is still ending in it; an empty cgroup costs nothing
