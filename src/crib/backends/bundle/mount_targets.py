"""Where in a container's root a path really lies, and which of those places nothing may be mounted at.

The OCI runtime resolves the place of each mount in the root with all earlier mounts in it. So a link in the
image, or in a volume that is mounted above, can lead a mount to another place than the request says. Such a
place may be a part of /proc, through which the runtime sets labels, profiles and masks (CVE-2019-16884,
CVE-2023-27561).

Another container may change a volume while the runtime works, so a check before the create is not enough.
Where a path leads through a volume, the mounts of the first process are checked before it may run.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from crib.backends.failures import failure
from crib.host import libc
from crib.host.files import open_root
from crib.host.mount_table import read_mounts
from crib.model.container import ContainerConfig
from crib.model.errors import InvalidRequest, WrongState
from crib.ocispec.mounts import container_path
from crib.wire import oci_runtime as oci

_MAX_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""
_MAX_OPEN = 32
"""Descriptors that a look holds at a time, however many mounts lie in each other."""
_NO_LINK = frozenset({errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Others may change a volume while it is looked into: no step leads out of it.
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"),
        *("net/dev", "sys/kernel/ns_last_pid"),
    )
)
"""What programs such as lxcfs lay over; OCI runtimes take these too."""
_KERNELS_OWN = ("proc", "sys")
"""Links in there are not looked at, so nobody knows what `..` behind one is."""
_GUARDED = ("/proc", "/sys", "/dev")
"""Where the runtime mounts, writes and makes nodes: reached by its own name or not at all."""
_OF_MASKS = ("/dev", "/dev/null")
"""Some runtimes cover masked files, and their console, with whatever they find here (CVE-2025-31133)."""
_IMAGE = "image"
_OF_CGROUPS = frozenset({"cgroup", "cgroup2"})
"""What runtimes make of these is theirs: one mount, many, or a bind."""
_TAKING_AWAY = frozenset({"ro", "nosuid", "nodev", "noexec"})
"""Set by a second look at the path, which may lead elsewhere by then: to /sys, which would lose its own."""


@dataclass(slots=True)
class _Tree:
    """What is mounted at a place: `depth` is the number of the place's parts, `turn` the mount's in order.

    `source` is a path of the host; empty for a file system that has no links of its own.
    """

    depth: int
    turn: int
    source: str
    asked_by: str
    fd: int = -1


class _Found(NamedTuple):
    """A path without symbolic links."""

    place: str
    guilty: str
    """Field of the tree that the last link was in."""
    moves: bool
    """The path leads through something that others may change meanwhile."""


class _View(contextlib.ExitStack):
    """A root with mounts in it, as the one who makes the next mount there will see it.

    The descriptors, `root_fd` too, are closed at its end.
    """

    def __init__(self, root_fd: int) -> None:
        super().__init__()
        self.callback(os.close, root_fd)
        self._root = _Tree(0, 0, "", _IMAGE, root_fd)
        self._trees: dict[str, _Tree] = {}
        self._opened: deque[_Tree] = deque()
        self.callback(self._close_all)
        self._links: dict[tuple[int, str], str | None] = {}
        self._turn = 0

    def mount(self, place: str, source: str, asked_by: str) -> int:
        """`source` is what will be seen at `place`, `asked_by` the field of the request; the mount's turn."""
        self._turn += 1
        self._trees[place] = _Tree(place.count("/"), self._turn, source, asked_by)
        return self._turn

    def is_seen(self, place: str, turn: int) -> bool:
        """Whether no mount at `place` or above it came after that turn."""
        while place:
            if place in self._trees and self._trees[place].turn > turn:
                return False
            place = place.rpartition("/")[0]
        return True

    def find(self, path: str) -> _Found:
        """Where the path leads.

        What is missing stays as it is. Links that lead to nothing are followed too: what they name may be
        there when the container runs. OSError: ELOOP when the links have no end, EXDEV when they lead through
        the kernel's own trees.
        """
        place: list[str] = []
        trees = [self._root]
        waiting = _parts(path)
        links, last, moves = 0, "", False
        while waiting:
            part = waiting.pop()
            moves = moves or bool(trees[-1].source)
            if part == "..":
                if len(place) > 1 and place[0] in _KERNELS_OWN:
                    raise OSError(errno.EXDEV, f"links lead through /{place[0]}", path)
                if place:
                    place.pop()
                    trees.pop()
                continue
            target = self._link(trees[-1], place, part)
            if target is None:
                place.append(part)
                trees.append(self._tree_at(place, trees[-1]))
                continue
            links, last = links + 1, trees[-1].asked_by
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                place.clear()
                del trees[1:]
            waiting += _parts(target)
        return _Found("/" + "/".join(place), last, moves)

    def _tree_at(self, place: Sequence[str], above: _Tree) -> _Tree:
        """A mount is hidden by a later one above it."""
        found = self._trees.get("/" + "/".join(place))
        return found if found is not None and found.turn > above.turn else above

    def _link(self, tree: _Tree, place: Sequence[str], part: str) -> str | None:
        """What the link `part` in a place without links says; None for anything else."""
        if tree is not self._root and not tree.source:
            return None
        path = "/".join((*place[tree.depth :], part))
        if (tree.turn, path) not in self._links:
            self._links[tree.turn, path] = self._read_link(tree, path)
        return self._links[tree.turn, path]

    def _read_link(self, tree: _Tree, path: str) -> str | None:
        try:
            if tree is self._root:  # nobody else changes it, and this is five times as fast
                return os.readlink(path, dir_fd=tree.fd)
            fd = libc.openat2(self._descriptor(tree), path, _LINK, resolve=_BENEATH)
            try:
                return os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _NO_LINK:
                return None
            raise

    def _descriptor(self, tree: _Tree) -> int:
        if tree.fd < 0:
            if len(self._opened) == _MAX_OPEN:
                self._close(self._opened.popleft())
            tree.fd = open_root(tree.source)
            self._opened.append(tree)
        return tree.fd

    def _close(self, tree: _Tree) -> None:
        os.close(tree.fd)
        tree.fd = -1

    def _close_all(self) -> None:
        for tree in self._opened:
            self._close(tree)


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def place_in_root(root_fd: int, path: str) -> str:
    """`path` without symbolic links, as a process in that root sees it; see `_View.find`."""
    with _View(os.dup(root_fd)) as view:
        return view.find(path).place


@dataclass(frozen=True, slots=True)
class Placed:
    """What a runtime will put into a root: `mounts` in their order, then nodes at `devices`.

    `contents` has, for sources that are filled or made later, where their content is now.
    """

    mounts: Sequence[oci.Mount]
    devices: Sequence[str] = ()
    contents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a mount must come to lie.

    `source` is what must be seen there: empty where nothing can lead the mount away, or a later one hides it.
    `flags` are options that it must have, whatever others it has. `position` is its place in `config.mounts`;
    None for what the request did not ask for.
    """

    place: str
    destination: str
    source: str
    flags: frozenset[str]
    position: int | None


def check_places(root: str, config: ContainerConfig, placed: Placed) -> tuple[Landing, ...]:
    """Refuse a mount that would land anywhere but at its path, or over what keeps containers apart.

    The result is for `check_landings`; empty when no mount's path leads through a volume, as nothing can lead
    one away then. Blocks: volumes are looked into where something is mounted inside of them.
    """
    asked = {container_path(mount, position): position for position, mount in enumerate(config.mounts)}
    made: list[tuple[int, _Found, oci.Mount]] = []
    with _View(open_root(root)) as view:
        for mount in placed.mounts:
            position = asked.get(mount.destination)
            name = "" if position is None else f"mounts[{position}]"
            found = _find(view, mount.destination, name and f"{name}.container_path")
            if position is not None:
                _check_volume(found.place, config, position)
            source = placed.contents.get(mount.source, mount.source) if _is_bind(mount) else ""
            made.append((view.mount(found.place, source, name), found, mount))
        for path in placed.devices:
            _find(view, path, "devices")
    if not any(found.moves for _turn, found, _mount in made):
        return ()
    return tuple(
        Landing(
            place=found.place,
            destination=mount.destination,
            source=_visible_source(view, turn, found, mount),
            flags=_flags(mount),
            position=asked.get(mount.destination),
        )
        for turn, found, mount in made
        if mount.type not in _OF_CGROUPS
    )


def _visible_source(view: _View, turn: int, found: _Found, mount: oci.Mount) -> str:
    return mount.source if found.moves and _is_bind(mount) and view.is_seen(found.place, turn) else ""


def _flags(mount: oci.Mount) -> frozenset[str]:
    """What the mount must have of `_TAKING_AWAY`: without them some runtimes give pods the node's mqueue."""
    sets_them = _is_bind(mount) or mount.type == "sysfs"
    return _TAKING_AWAY.intersection(mount.options if sets_them else ())


def check_landings(landings: Sequence[Landing], process: str) -> None:
    """Refuse a container, made but not started, whose mounts are not where `check_places` found them.

    `process` is the directory below /proc of its first process. A mount lies in one place, and nobody else
    makes or moves any in there: what is missing was led away. WrongState; OSError when the process has ended.
    Blocks.
    """
    if not landings:
        return
    left: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    for entry in read_mounts(f"{process}/mountinfo"):
        left[entry.path].append(entry.options)
    root_fd = os.open(f"{process}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for landing in landings:
            there = left[landing.place]
            like_it = next((options for options in there if landing.flags <= options), None)
            if like_it is None or (landing.source and not _shows(root_fd, landing)):
                raise _led_away(landing)
            there.remove(like_it)
    finally:
        os.close(root_fd)


def _led_away(landing: Landing) -> WrongState:
    name = "" if landing.position is None else f"[{landing.position}].container_path"
    text = f"{landing.destination} is not mounted at {landing.place} as asked: something moved it meanwhile"
    return WrongState(text, field=f"mounts{name}")


def _shows(root_fd: int, landing: Landing) -> bool:
    """Whether its source is what lies there: a recursive bind may have brought another mount along."""
    try:
        fd = libc.openat2(root_fd, landing.place.lstrip("/"), _LINK, resolve=_BENEATH)
        try:
            return os.path.samestat(os.fstat(fd), os.stat(landing.source))
        finally:
            os.close(fd)
    except OSError:
        return False


def _find(view: _View, path: str, name: str) -> _Found:
    """Where `path` is; `name` is the field that asked for it, if it was one."""
    try:
        found = view.find(path)
    except OSError as error:
        raise failure(f"{path} cannot be reached in the image", error, field=name or _IMAGE) from error
    place = found.place
    if place == "/":
        raise InvalidRequest(f"{path} is the container's root by links", field=name or found.guilty)
    for top in _GUARDED:
        if _is_below(place, top) and not _is_below(os.path.normpath(f"/{path.lstrip('/')}"), top):
            text = f"{path} leads to {place} by links, and nothing may be mounted there"
            raise InvalidRequest(text, field=name or found.guilty)
    return found


def _check_volume(place: str, config: ContainerConfig, position: int) -> None:
    host_path, name = config.mounts[position].host_path, f"mounts[{position}].container_path"
    hides = _is_below(place, "/proc") and place not in _PROC_FILES
    if hides and not (place == "/proc" and _is_proc(host_path)):
        raise InvalidRequest(f"a volume at {place} would hide a part of proc", field=name)
    if place in _OF_MASKS and not config.security.privileged and os.path.realpath(host_path or "/") != place:
        text = f"a volume at {place} could change what masked_paths are covered with (CVE-2025-31133)"
        raise InvalidRequest(text, field=name)


def _is_bind(mount: oci.Mount) -> bool:
    return mount.type == "bind" or not {"bind", "rbind"}.isdisjoint(mount.options)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _is_proc(path: str) -> bool:
    real = os.path.realpath(path) if path else ""
    found = [entry.fstype for entry in read_mounts() if entry.path == real]
    return bool(found) and found[-1] == "proc"
