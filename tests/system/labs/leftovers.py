"""Counts what there is of one daemon on this machine: nothing of anybody else's."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crib.host import links
from crib.host.mount_table import mounts_below
from crib.host.mounts import unmount_tree
from crib.host.netlink import Netlink
from crib.host.nftables import Nftables

_DATABASES = ("s/records.db", "d/images.db")
"""What is true now; the pods' file on disk follows."""
_FILES = (*_DATABASES, "d/crib.db")
_UNCOUNTED = (
    *(f"{name}{part}" for name in _FILES for part in ("-wal", "-shm")),
    "d/reserve",
    "notify",
    "cribd.log",
)
_COMPILED_FILTERS = re.compile(r"s/runtime/[^/]+/\.cache(/.*)?")
"""Kept by the crun of Debian 13, for all containers of one seccomp profile; it removes old ones itself."""
_NAMESPACE_OF_SHIMS = re.compile(r"s/runtime/[^/]+/crib")
"""Made by the first of a handler's shims, for all of them."""
_POD_LOGS = "logs/"
"""Logs outlive their containers: the kubelet removes them."""
_KILL_SECONDS = 30.0
SHOWN = 4
"""Names of each kind that a message has: what is left of one pod alone has a dozen of some."""


@dataclass(frozen=True)
class Leftovers:
    """Names of everything, by kind."""

    mounts: frozenset[str]
    namespaces: frozenset[str]
    interfaces: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]
    rows: frozenset[str]
    rules: frozenset[str]

    @staticmethod
    def of(root: Path, cgroup: str, bridge: str) -> Leftovers:
        """Of the daemon with this root, cgroup and bridge."""
        mounts = mounts_below(str(root))
        return Leftovers(
            mounts=frozenset(entry.path for entry in mounts if entry.fstype != "nsfs"),
            namespaces=frozenset(entry.path for entry in mounts if entry.fstype == "nsfs"),
            interfaces=frozenset(_interfaces(bridge)),
            cgroups=frozenset(_cgroups(cgroup)),
            processes=frozenset(f"{pid} {command}" for pid, command in processes_of(root, cgroup)),
            files=frozenset(_files(root)),
            rows=frozenset(row for name in _DATABASES for row in _rows(root / name)),
            rules=frozenset(_rules(bridge)),
        )

    def differences(self, before: Leftovers) -> list[str]:
        """What has come and what has gone since, but for links that the kernel was about to remove."""
        found: list[str] = []
        for kind in self.__dataclass_fields__:
            now, then = getattr(self, kind), getattr(before, kind)
            for what, names in (
                ("new", sorted(now - then)),
                ("gone", sorted(then - now) if kind != "interfaces" else []),
            ):
                found += [f"{what} {kind}: {name}" for name in names[:SHOWN]]
                found += [f"{what} {kind}: {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        return found

    def in_the_kernel(self) -> list[str]:
        """All but files, and rows that are not of pods: what a wiped daemon must not have."""
        rows = frozenset(
            row
            for row in self.rows
            if not row.startswith(
                ("images", "image_documents", "unreadable", "pod_address_cursor", "origin", "volume")
            )
        )
        kinds = (*(k for k in self.__dataclass_fields__ if k not in ("files", "rows")),)
        return [f"{kind}: {name}" for kind in kinds for name in sorted(getattr(self, kind))] + sorted(rows)


def processes_of(root: Path, cgroup: str) -> Iterator[tuple[int, str]]:
    """In one of the daemon's cgroups, or with one of its paths in the command line; not the daemon itself."""
    place, mark = f":{cgroup}/".encode(), os.fsencode(root) + b"/s/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            ours = mark in command or place in Path(f"/proc/{pid}/cgroup").read_bytes()
            state = re.sub(rb".*\) ", b"", Path(f"/proc/{pid}/stat").read_bytes())[:1]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if ours and state != b"Z":
            yield int(pid), command.replace(b"\0", b" ").decode(errors="replace")[:120]


def processes_holding(root: Path) -> Iterator[str]:
    """With something below the root open, or as working directory: workers that outlived their daemon."""
    below = f"{root}/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))]
            held = [os.readlink(link) for link in links]
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue  # it ended while we looked, has more rights than we, or a path too long to be ours
        if int(pid) != os.getpid() and any(f"{path}/".startswith(below) for path in held):
            yield f"{pid} {name}"


def _interfaces(bridge: str) -> Iterator[str]:
    if os.path.exists(f"/sys/class/net/{bridge}"):
        yield bridge
        with contextlib.suppress(FileNotFoundError):
            yield from os.listdir(f"/sys/class/net/{bridge}/brif")


def _cgroups(cgroup: str) -> Iterator[str]:
    top = "/sys/fs/cgroup"
    for tree in ("", *(f"/{name}" for name in os.listdir(top) if os.path.isdir(f"{top}/{name}"))):
        for directory, _, _ in os.walk(f"{top}{tree}{cgroup}"):
            yield directory


def _files(root: Path) -> Iterator[str]:
    for directory, below, names in os.walk(root):
        below[:] = [name for name in below if not os.path.ismount(f"{directory}/{name}")]
        for name in ("", *names):
            relative = os.path.relpath(os.path.join(directory, name), root)
            if relative in _UNCOUNTED or f"{relative}/".startswith(_POD_LOGS):
                continue
            if not (_COMPILED_FILTERS.fullmatch(relative) or _NAMESPACE_OF_SHIMS.fullmatch(relative)):
                yield relative


_HISTORY = {"events", "kept"}
"""What is remembered, within its own bounds: it outlives what it is about."""


def _rows(database: Path) -> Iterator[str]:
    if not database.exists():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for name in set(names) - _HISTORY:
            for row in connection.execute(f"SELECT * FROM {name}"):
                yield f"{name} {row[0] if name != 'unreadable' else row[1]}"


def _rules(bridge: str) -> Iterator[str]:
    table = f"crib_{bridge}"
    nftables = Nftables()
    try:
        if nftables.exists(table, "guard"):
            yield table
            contents = nftables.contents(table)
            for name, entries in (contents.maps if contents else {}).items():
                yield from (f"{name} {entry}" for entry in entries)
        if (senders := nftables.contents(table, "bridge")) is not None:
            yield f"bridge {table}"
            for name, keys in senders.sets.items():
                yield from (f"{name} {key}" for key in keys)
    finally:
        nftables.close()


def kill_processes(root: Path, cgroup: str) -> None:
    """Every process of the daemon's containers, and their monitors; waits until they are gone."""
    deadline = time.monotonic() + _KILL_SECONDS
    while (found := list(processes_of(root, cgroup))) and time.monotonic() < deadline:
        for pid, _ in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)  # they are not our children: nothing tells when they are gone
    assert not found, f"do not die: {found}"


def remove_cgroups(cgroup: str) -> None:
    deadline = time.monotonic() + _KILL_SECONDS
    for directory in sorted(_cgroups(cgroup), key=len, reverse=True):
        while True:
            try:
                os.rmdir(directory)
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)  # a process that was killed leaves its cgroup a moment after it is a zombie


def remove_network(bridge: str) -> None:
    """Bridge, links on it, and the tables of rules."""
    with Netlink() as netlink:
        for name in list(_interfaces(bridge))[::-1]:
            links.delete_link(netlink, name)
    nftables = Nftables()
    try:
        for family in ("inet", "bridge"):
            nftables.delete_table(f"crib_{bridge}", family)
    finally:
        nftables.close()


def force_away(root: Path, cgroup: str, bridge: str) -> None:
    """After a test that failed: nothing of it may disturb the next one, or this machine."""
    kill_processes(root, cgroup)
    unmount_tree(str(root))
    remove_cgroups(cgroup)
    remove_network(bridge)
