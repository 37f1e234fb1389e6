"""A container's root: image layers below, its writable layer on top.

And what is read and made inside, never outside of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

from crib.backends.oci.failures import trying
from crib.host import mounts
from crib.host.files import make_dirs_in_root, open_root, read_in_root, remove_tree
from crib.model.errors import InvalidRequest
from crib.model.facts import RootfsFacts
from crib.model.ids import ContainerId, Digest
from crib.model.paths import Paths

_FACT_LIMIT = 1 << 20
_MAX_VOLUMES = 128


class LayerMounts(Protocol):
    """Where image layers are mounted, each once and shared."""

    async def acquire(self, layers: Sequence[Digest]) -> Sequence[str]:
        """Directories of the mounted layers, lowest first."""
        ...


def mount_root(paths: Paths, container: ContainerId, layers: Sequence[str]) -> str:
    """Mount the container's root over `layers` (lowest first) and return its path.

    Blocks; idempotent after a crash.
    """
    root = paths.rootfs(container)
    writable = paths.writable_layer(container)
    os.makedirs(writable, mode=0o700, exist_ok=True)
    for name, mode in (("upper", 0o755), ("work", 0o700)):
        os.makedirs(f"{writable}/{name}", mode=mode, exist_ok=True)
    mounts.perform(
        mounts.Overlay(
            target=root,
            lower=tuple(reversed(layers)),
            upper=f"{writable}/upper",
            work=f"{writable}/work",
        )
    )
    return root


def unmount_root(paths: Paths, container: ContainerId) -> None:
    """Unmount the root and remove the writable layer and the bundle. Blocks; safe to repeat."""
    bundle = paths.container(container)
    while mounts.unmount(paths.rootfs(container), lazy=True):
        pass
    try:
        remove_tree(bundle)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        mounts.unmount_tree(bundle)
        remove_tree(bundle)
    remove_tree(paths.writable_layer(container))


def read_facts(root: str) -> RootfsFacts:
    """The user database of a root.

    A file that is missing is empty, one that is not a plain file is refused.
    """
    return RootfsFacts(passwd=_text(root, "etc/passwd"), group=_text(root, "etc/group"))


def _text(root: str, path: str) -> str:
    try:
        return read_in_root(root, path, _FACT_LIMIT).decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise InvalidRequest(
            f"/{path} of the image cannot be used: {error.strerror}", field="config.image"
        ) from error


def make_directories(root: str, working_dir: str, volumes: Sequence[str]) -> None:
    """The working directory and the image's declared volumes, where the image has none."""
    if len(volumes) > _MAX_VOLUMES:
        raise InvalidRequest(
            f"the image declares {len(volumes)} volumes, more than {_MAX_VOLUMES}", field="config.image"
        )
    root_fd = open_root(root)
    try:
        for path, field in [
            (working_dir, "config.working_dir"),
            *((volume, "config.image") for volume in volumes),
        ]:
            if path == "/":
                continue
            try:
                os.close(make_dirs_in_root(root_fd, path))
            except OSError as error:
                if error.errno in {errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.EEXIST}:
                    raise InvalidRequest(
                        f"{path} cannot be a directory: {error.strerror}", field=field
                    ) from error
                with trying(f"making {path} in {root}"):
                    raise
    finally:
        os.close(root_fd)
