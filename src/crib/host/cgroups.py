"""Control groups through their files: the layout found, groups made, filled, ended and removed.

A *path* here is a cgroup's path as OCI and CRI write it (`/kubepods/burstable/podX`), the same in every
hierarchy. With cgroup v1 it means one directory in each controller's tree (kernel, admin-guide/cgroup-v1),
with v2 a single directory (admin-guide/cgroup-v2). A *hybrid* host has v1 controllers and an empty v2 tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from crib.host.cgroup_trees import make, remove_one, remove_tree, walk
from crib.host.mount_table import MountEntry, read_mounts

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05
_FILE_LIMIT = 1 << 20
_V1_CONTROLLERS = frozenset(
    [
        *("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc"),
        *("net_cls", "net_prio", "perf_event", "pids", "rdma"),
    ]
)
# The tree to look for processes in: with v1 a runtime may leave one out, so the first that has the group
# counts.
_PROCESS_TREES = ("pids", "freezer", "memory", "cpuacct", "cpu", "devices", "name=systemd")


@dataclass(frozen=True, slots=True)
class CgroupLayout:
    """Where the trees are.

    `controllers` maps a v1 controller (or `name=systemd`) to its tree; several may share one. `unified` is
    the v2 tree, None where there is none, and `unified_controllers` what is available at its root.
    """

    mode: Literal["v1", "hybrid", "v2"]
    controllers: Mapping[str, str]
    unified: str | None
    unified_controllers: frozenset[str]
    delegates: bool = False
    """Whether the v2 tree keeps a cgroup namespace from the limits of its root (mount option nsdelegate)."""
    favours_changes: bool = False
    """Whether cgroups of the v2 tree change fast, and forks are slower (mount option favordynmods)."""

    @property
    def trees(self) -> tuple[str, ...]:
        """Every hierarchy's mount point once, the v2 tree last."""
        found = dict.fromkeys(self.controllers.values())
        if self.unified is not None:
            found[self.unified] = None
        return tuple(found)


def detect_layout(mountinfo: str = "/proc/self/mountinfo") -> CgroupLayout:
    """Read the layout from the mount table; FileNotFoundError when no cgroup file system is mounted."""
    controllers: dict[str, str] = {}
    unified: str | None = None
    delegates = favours_changes = False
    for entry in read_mounts(mountinfo):
        if entry.fstype == "cgroup2" and unified is None:
            unified = entry.path
            delegates = "nsdelegate" in entry.super_options
            favours_changes = "favordynmods" in entry.super_options
        elif entry.fstype == "cgroup":
            for controller in _controllers_of(entry):
                controllers.setdefault(controller, entry.path)
    if not controllers and unified is None:
        raise FileNotFoundError(errno.ENOENT, "no cgroup file system is mounted", mountinfo)
    available: frozenset[str] = frozenset()
    if unified is not None:
        with contextlib.suppress(FileNotFoundError):
            available = frozenset(_read(f"{unified}/cgroup.controllers").split())
    if not controllers.keys() & _V1_CONTROLLERS:
        mode: Literal["v1", "hybrid", "v2"] = "v1" if unified is None else "v2"
    else:
        mode = "v1" if unified is None else "hybrid"
    return CgroupLayout(mode, controllers, unified, available, delegates, favours_changes)


def _controllers_of(entry: MountEntry) -> Iterator[str]:
    for option in sorted(entry.super_options):
        if option in _V1_CONTROLLERS or option.startswith("name="):
            yield option


def expand_slice(name: str) -> str:
    """The path of a systemd slice: `a-b.slice` lies at `/a.slice/a-b.slice` (systemd.slice(5)).

    ValueError when it is no slice's name. `-.slice` is the root.
    """
    stem = name.removesuffix(".slice")
    if stem == name or "/" in name or not stem:
        raise ValueError(f"not the name of a systemd slice: {name!r}")
    if stem == "-":
        return "/"
    parts = stem.split("-")
    if "" in parts:
        raise ValueError(f"not the name of a systemd slice: {name!r}")
    return "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))


class Cgroups:
    """The cgroups of a layout. Calls are file operations of some 10 µs each; those that wait are `async`."""

    def __init__(self, layout: CgroupLayout) -> None:
        self.layout = layout

    def own_path(self, controller: str = "", pid: str = "self") -> str:
        """The path of a process in a v1 controller's hierarchy, or in the v2 tree (`""`): cgroups(7)."""
        for line in _read(f"/proc/{pid}/cgroup").splitlines():
            _number, names, path = line.split(":", 2)
            if controller in names.split(","):
                return path
        raise FileNotFoundError(
            errno.ENOENT, f"no hierarchy for the controller {controller!r}", f"/proc/{pid}/cgroup"
        )

    def directory(self, path: str, controller: str) -> str:
        """The directory of a cgroup for a controller; KeyError when the host has no such controller."""
        _check(path)
        tree = self.layout.controllers.get(controller)
        if tree is None:
            if self.layout.unified is None or (
                controller and controller not in self.layout.unified_controllers
            ):
                raise KeyError(controller)
            tree = self.layout.unified
        return tree + path

    def directories(self, path: str) -> list[str]:
        """The directories of a cgroup in all hierarchies, whether they exist or not."""
        _check(path)
        return [tree + path for tree in self.layout.trees]

    def exists(self, path: str) -> bool:
        """Whether the cgroup exists in any hierarchy."""
        return any(os.path.isdir(directory) for directory in self.directories(path))

    def create(self, path: str, *, among_processes: bool = False) -> None:
        """Make the cgroup and its parents in every hierarchy, ready for processes; safe to repeat.

        With v1 an empty cpuset takes its parent's CPUs and memory nodes (a process cannot join it otherwise);
        with v2 the parents hand all their controllers down, but for one that has processes of its own
        (`among_processes`): it would become threaded, and could be neither read nor killed. A cgroup below
        such a one is a command's, and only we may look into it. Parents that are there are taken to be ready,
        but for those that have to hand down. OSError with the path; whatever was made until then stays.
        """
        _check(path)
        cpuset = self.layout.controllers.get("cpuset")
        parent = os.path.dirname(path) if among_processes else ""
        for tree in self.layout.trees:
            if among_processes or self.layout.mode != "v2":
                with contextlib.suppress(FileNotFoundError):  # where a parent is missing
                    is_new = make(tree + path, shown=not among_processes)
                    if tree != cpuset or _inherit_cpuset(tree + path, is_new=is_new):
                        continue
            directory = tree
            for name in path.strip("/").split("/"):
                hands_down = tree == self.layout.unified and self.layout.mode == "v2"
                if hands_down and not (parent and directory == tree + parent):
                    _hand_down(directory)
                directory = f"{directory}/{name}"
                is_new = make(directory)
                if tree == cpuset:
                    _inherit_cpuset(directory, is_new=is_new)

    def below(self, path: str) -> list[str]:
        """Names of the cgroups directly below, also of one that is half made or half removed."""
        trees = self.directories(path)
        names: set[str] = set()
        for directory in {trees[0], trees[-1]}:  # they are made, and removed, in the order of the trees
            with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
                names.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return sorted(names)

    def add_process(self, path: str, pid: int) -> None:
        """Move a process (with all its threads) into the cgroup in every hierarchy that has it."""
        for directory in self.directories(path):
            with contextlib.suppress(FileNotFoundError):
                _write(f"{directory}/cgroup.procs", str(pid))

    def read(self, path: str, key: str) -> str:
        """The content of one file; with v1 its prefix names the controller (`memory.limit_in_bytes`)."""
        return _read(self._file(path, key))

    def has(self, path: str, key: str) -> bool:
        """Whether the cgroup has this file: kernels differ in what they can limit."""
        return os.path.exists(self._file(path, key))

    def write(self, path: str, key: str, value: str) -> None:
        """Write one file; OSError names the file and the value."""
        _write(self._file(path, key), value)

    def pids(self, path: str) -> list[int]:
        """The processes in the cgroup and in those below it; none when it does not exist.

        Processes of a pid namespace that we cannot see are left out.
        """
        for directory in self._process_trees(path):
            found: list[int] = []
            for below in walk(directory):
                # ENODEV: removed between opening and reading; EOPNOTSUPP: threaded, its processes show above
                with contextlib.suppress(OSError):
                    found += [int(word) for word in _read(f"{below}/cgroup.procs").split()]
            return [pid for pid in found if pid > 0]
        return []

    async def kill(self, path: str, timeout: float = 10.0) -> bool:
        """End all processes in the cgroup and below it; True once it is empty, False after `timeout` seconds.

        With v2 by `cgroup.kill` (kernel 5.14). Otherwise by signals to all that are listed until the list
        stays empty, frozen meanwhile from the second round on, so that nothing can fork faster than it is
        killed. This process is never signalled.
        """
        directory = next(self._process_trees(path), None)
        if directory is None:
            return True
        frozen = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for pause in _pauses():
                    if not _kill_at_once(self._unified_directory(path)):
                        frozen = pause > _FIRST_PAUSE and self._freeze(path, frozen=True)
                    pids = [pid for pid in self.pids(path) if pid != os.getpid()]
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    # A frozen process dies only after it is thawed.
                    if pids or frozen:
                        self._freeze(path, frozen=False)
                    if not pids:
                        return True
                    await asyncio.sleep(pause)
        return not [pid for pid in self.pids(path) if pid != os.getpid()]

    async def remove(self, path: str, timeout: float = 2.0) -> None:
        """Remove the cgroup and those below it from every hierarchy; safe to repeat.

        A process that has just ended keeps its cgroup busy for a moment: tried again until `timeout`, then
        OSError (EBUSY) with the directory.
        """
        error: OSError | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for pause in _pauses():
                    error = self._remove_now(path)
                    if error is None:
                        return
                    await asyncio.sleep(pause)
        if error is not None:
            raise error

    def remove_if_empty(self, path: str) -> None:
        """Remove the cgroup from every hierarchy where nothing is in it, and nothing below it."""
        for directory in self.directories(path):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def remove_at_once(self, path: str) -> bool:
        """Remove the cgroup from every hierarchy; False, and where it is left as it is, if it is in use."""
        return not any(remove_one(directory) for directory in self.directories(path))

    def _remove_now(self, path: str) -> OSError | None:
        busy: OSError | None = None
        for top in self.directories(path):
            busy = remove_tree(top) or busy
        return busy

    def _file(self, path: str, key: str) -> str:
        if "/" in key:
            raise ValueError(f"not the name of a cgroup file: {key!r}")
        _check(path)
        tree = self.layout.controllers.get(key.partition(".")[0], self.layout.unified)
        if tree is None:
            raise FileNotFoundError(errno.ENOENT, "no hierarchy has this file", f"{path}/{key}")
        return f"{tree}{path}/{key}"

    def _unified_directory(self, path: str) -> str | None:
        return None if self.layout.unified is None else self.layout.unified + path

    def _process_trees(self, path: str) -> Iterator[str]:
        _check(path)
        trees = [self.layout.controllers[name] for name in _PROCESS_TREES if name in self.layout.controllers]
        if self.layout.unified is not None:
            trees.append(self.layout.unified)
        for tree in dict.fromkeys(trees):
            if os.path.isdir(tree + path):
                yield tree + path

    def _freeze(self, path: str, *, frozen: bool) -> bool:
        tree = self.layout.controllers.get("freezer")
        with contextlib.suppress(OSError):
            if tree is not None:
                _write(f"{tree}{path}/freezer.state", "FROZEN" if frozen else "THAWED")
                return frozen
            if self.layout.unified is not None:
                _write(f"{self.layout.unified}{path}/cgroup.freeze", "1" if frozen else "0")
                return frozen
        return False


def _check(path: str) -> None:
    """Refuse the root (we would kill or remove everything) and whatever leads out of the tree."""
    parts = path.split("/")
    if parts[0] or len(parts) < 2 or any(part in {"", ".", ".."} or "\0" in part for part in parts[1:]):
        raise ValueError(f"not an absolute path of a cgroup below the root: {path!r}")


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE)


def _hand_down(directory: str) -> None:
    """Enable every available controller for the children (cgroup v2, `cgroup.subtree_control`)."""
    try:
        wanted = set(_read(f"{directory}/cgroup.controllers").split())
        enabled = set(_read(f"{directory}/cgroup.subtree_control").split())
    except FileNotFoundError:
        return
    for controller in sorted(wanted - enabled):
        # One by one: a controller that cannot be handed down (a realtime process with `cpu`) must not stop
        # the others.
        with contextlib.suppress(OSError):
            _write(f"{directory}/cgroup.subtree_control", f"+{controller}")


def _inherit_cpuset(directory: str, *, is_new: bool) -> bool:
    """False where the parent has nothing to inherit: it is not ready itself."""
    parent = os.path.dirname(directory)
    for key in ("cpuset.cpus", "cpuset.mems"):
        with contextlib.suppress(FileNotFoundError):
            if is_new or not _read(f"{directory}/{key}").strip():
                if not (inherited := _read(f"{parent}/{key}").strip()):
                    return False
                _write(f"{directory}/{key}", inherited)
    return True


def _kill_at_once(directory: str | None) -> bool:
    if directory is None:
        return False
    try:
        if "populated 1" not in _read(f"{directory}/cgroup.events"):
            return False
        _write(f"{directory}/cgroup.kill", "1")
    except OSError:  # not this kernel, or not this tree
        return False
    return True


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Files of kernfs may come in pieces of a page.
        data = b""
        while len(data) < _FILE_LIMIT and (chunk := os.read(fd, 65536)):
            data += chunk
    except OSError as error:
        raise OSError(error.errno, f"read failed: {error.strerror}", path) from error
    finally:
        os.close(fd)
    return data.decode("utf-8", "replace")


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"write of {value!r} failed: {error.strerror}", path) from error
    finally:
        os.close(fd)
