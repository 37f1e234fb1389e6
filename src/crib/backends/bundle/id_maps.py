"""Files with the ids of a pod's user namespace: mounts that shift them, and files made for its root.

An id-mapped mount shows what uid 0 owns on disk as owned by the pod's root (mount_setattr(2)), so a layer or
a volume needs no copy and no chown. They are made here and not by the OCI runtime, as old ones
cannot.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crib.host import mounts
from crib.host.directories import make_directory
from crib.host.mount_table import is_mountpoint, mounts_below
from crib.model.errors import InvalidRequest
from crib.model.paths import Paths
from crib.model.sandbox import SandboxRecord
from crib.ocispec.namespaces import host_id

_MAX_INSIDE = 64
_LOCKED = ((os.ST_NOSUID, "nosuid"), (os.ST_NODEV, "nodev"), (os.ST_NOEXEC, "noexec"))


@dataclass(frozen=True, slots=True)
class PodIdMap:
    """A pod's user namespace: where it is pinned, and what its root is on the node."""

    namespace: str
    uid: int
    gid: int


def pod_id_map(paths: Paths, sandbox: SandboxRecord) -> PodIdMap | None:
    """None for a pod that uses the node's ids."""
    userns = sandbox.config.user_namespace
    if userns is None:
        return None
    uid, gid = host_id(userns.uids, 0), host_id(userns.gids, 0)
    if uid is None or gid is None:
        raise ValueError(f"the user namespace of sandbox {sandbox.id} has no root")
    return PodIdMap(paths.namespace(sandbox.id, "user"), uid, gid)


def own(target: str | int, idmap: PodIdMap | None) -> None:
    """Give a file that was made for a pod to the pod's root; a link is never followed."""
    if idmap is None:
        return
    if isinstance(target, int):
        os.fchown(target, idmap.uid, idmap.gid)
    else:
        os.lchown(target, idmap.uid, idmap.gid)


def let_through(directory: str, idmap: PodIdMap) -> None:
    """Let the pod's root (a runtime in the user namespace), and nobody else, pass through a directory."""
    os.chown(directory, 0, idmap.gid)
    os.chmod(directory, 0o710)  # noqa: S103 - only the pod's root is in the group


def bind_id_mapped(idmap: PodIdMap, source: str, target: str, *, propagates: bool = False) -> None:
    """Show `source` (a file or directory, with the mounts below) at `target` with shifted ids.

    `target` is made, below a private mount; one that is mounted is left as it is. Mounts made below the
    source later come along, those made below the target travel back only with `propagates`. OSError (EINVAL)
    when a file system in it cannot shift ids.
    """
    if is_mountpoint(target):
        return
    _make_place(source, target)
    with _opened(idmap) as fd:
        mounts.perform(mounts.Bind(source, target, idmap_fd=fd))
    if not propagates:
        mounts.set_propagation(target, "slave", recursive=True)


def mounts_inside(paths: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """For each path what is mounted below it, relative to it, parents first."""
    found = []
    for path in paths:
        top = os.path.realpath(path) if path else ""
        below = [entry.path for entry in reversed(mounts_below(top))] if top not in ("", "/") else []
        inside = [os.path.relpath(place, top) for place in below if place != top]
        if len(inside) > _MAX_INSIDE:
            raise InvalidRequest(f"more than {_MAX_INSIDE} mounts lie below {path}", field="mounts")
        found.append(tuple(dict.fromkeys(inside)))
    return tuple(found)


def locked_options(paths: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """For each path the flags of the mount that it lies on, none for what is missing.

    Inside a user namespace nobody can take them away, and some runtimes must be told to keep them
    (mount_namespaces(7), restrictions on mount namespaces).
    """
    found = []
    for path in paths:
        try:
            flags = os.statvfs(path).f_flag if path else 0
        except OSError:
            flags = 0
        found.append(tuple(name for flag, name in _LOCKED if flags & flag))
    return tuple(found)


@contextlib.contextmanager
def id_mapped_layers(
    idmap: PodIdMap | None, layers: Sequence[str], directory: str
) -> Iterator[tuple[str, ...]]:
    """`layers` as a pod sees them, for an overlay to be mounted on in the block.

    Without a map these are the layers themselves. Else they are copies below `directory` (made, private) that
    go at the end of the block: an overlay keeps copies of its own.
    """
    if idmap is None:
        yield tuple(layers)
        return
    places = [f"{directory}/{position}" for position in range(len(layers))]
    try:
        with _opened(idmap) as fd:
            for layer, place in zip(layers, places, strict=True):
                os.makedirs(place, mode=0o700, exist_ok=True)
                while mounts.unmount(place, lazy=True):
                    pass
                mounts.perform(mounts.Bind(layer, place, recursive=False, idmap_fd=fd))
        yield tuple(places)
    finally:
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                while mounts.unmount(place, lazy=True):
                    pass
                os.rmdir(place)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


def release_below(directory: str) -> None:
    """Unmount all at and below `directory`; safe to repeat.

    Never without having cut the ties first: a lazy unmount of mounts that share their events would unmount
    what is below their sources too, on the node.
    """
    for entry in mounts_below(directory):
        if entry.shared:
            mounts.set_propagation(entry.path, "slave")
    mounts.unmount_tree(directory)


def _make_place(source: str, target: str) -> None:
    make_directory(os.path.dirname(target), 0o711)
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(target, mode=0o700, exist_ok=True)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


@contextlib.contextmanager
def _opened(idmap: PodIdMap) -> Iterator[int]:
    fd = os.open(idmap.namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
