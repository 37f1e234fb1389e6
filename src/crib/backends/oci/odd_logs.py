"""Logs that lead nowhere, and files beside the logs that are nobody's: told, never touched.

They are the client's: a kubelet keeps them for as long as it likes, and collects them itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from crib.model.container import ContainerRecord, ContainerState
from crib.model.sandbox import SandboxRecord

MOST_FILES = 20
"""Of one pod that are told by name."""
MOST_ENTRIES = 10_000
"""Of one pod's directory that are looked at."""


def odd_logs(
    sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
) -> list[tuple[str, str]]:
    """Paths with what is odd about them. Blocks as the file system of the logs does."""
    found: list[tuple[str, str]] = []
    known: set[str] = set()
    for row in containers:
        if not row.log_path:
            continue
        known.add(row.log_path)
        if row.state is not ContainerState.RUNNING or os.path.lexists(row.log_path):
            continue
        what = "file" if os.path.isdir(os.path.dirname(row.log_path)) else "directory"
        found.append((row.log_path, f"its {what} is gone: what container {row.id} writes is lost"))
    for sandbox in sandboxes:
        if directory := sandbox.config.log_directory:
            odd = [path for path in _files(directory) if not _is_log_of(path, known)]
            found += [(path, f"is not a log of a container of pod {sandbox.id}") for path in odd[:MOST_FILES]]
            if len(odd) > MOST_FILES:
                found.append((directory, f"has {len(odd) - MOST_FILES} more that are no container's log"))
    return found


def _files(top: str) -> Iterator[str]:
    """Files below a pod's directory of logs, one level of directories included, as a kubelet lays them."""
    for directory in (top, *_listed(top, directories=True)):
        yield from _listed(directory, directories=False)


def _listed(directory: str, *, directories: bool) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(directory) as entries:
            for number, entry in enumerate(entries):
                if number == MOST_ENTRIES:
                    break
                if entry.is_dir(follow_symlinks=False) == directories:
                    found.append(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)


def _is_log_of(path: str, known: set[str]) -> bool:
    """Whether it is a log on record, or one that was set aside by a rotation: LOG.TIME, LOG.TIME.gz."""
    directory, _, name = path.rpartition("/")
    parts = name.split(".")
    return any(f"{directory}/{'.'.join(parts[:end])}" in known for end in range(1, len(parts) + 1))
