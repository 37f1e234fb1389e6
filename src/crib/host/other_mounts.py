"""Mounts in another mount namespace than ours: of a program that sees nothing but one directory.

What is mounted there is in no table of the host, and goes with the namespace.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from crib.host import libc
from crib.host.entering import run_in_namespace
from crib.host.mounts import Bind, clone_tree


@dataclass(frozen=True, slots=True)
class Export:
    """A source of ours, and its target: a path from the root of the other namespace."""

    bind: Bind
    follows: bool = False
    """What is mounted below the source later shows below the target too, and never the other way round."""


def bind_into(namespace: int, exports: Sequence[Export]) -> None:
    """Bind all on their targets in a mount namespace (an open descriptor), in their order. Blocks.

    No link of that namespace leads out of it. OSError with the source; what was bound until then stays.
    """
    for export in exports:
        bind = export.bind
        try:
            tree = clone_tree(bind)
            try:
                # As a peer of the host's mounts it would take the host's along when it is unmounted.
                kind = libc.MS_SLAVE if export.follows else libc.MS_PRIVATE
                libc.mount_setattr(tree, 0, recursive=True, propagation=kind)
                _attach(namespace, tree, bind.target)
            finally:
                os.close(tree)
        except OSError as error:
            text = f"bind of {bind.source} failed: {error.strerror}"
            raise OSError(error.errno, text, bind.target) from error


def _attach(namespace: int, tree: int, target: str) -> None:
    run_in_namespace(namespace, "mnt", lambda: libc.move_mount(tree, target))


def unmount_in(namespace: int, path: str) -> None:
    """Detach the mount at `path` of a mount namespace, with those below it. Blocks. OSError EINVAL: none."""
    flags = libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW
    run_in_namespace(namespace, "mnt", lambda: libc.umount2(path, flags))


def set_read_only_in(namespace: int, path: str) -> None:
    """Make one mount of that namespace read-only, and not those below it. Blocks."""

    def work() -> None:
        tree = libc.open_tree(path, 0)
        try:
            libc.mount_setattr(tree, libc.MOUNT_ATTR_RDONLY, recursive=False)
        finally:
            os.close(tree)

    run_in_namespace(namespace, "mnt", work)
