"""A container's root: image layers below, its writable layer on top.

And what is read and made inside, never outside of it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from collections.abc import Sequence

from crib.backends.bundle.id_maps import PodIdMap, id_mapped_layers, let_through, own, release_below
from crib.backends.failures import failure
from crib.host import mounts
from crib.host.directories import make_directory
from crib.host.files import make_dirs_in_root, open_in_root, open_root, read_in_root, remove_tree
from crib.host.threads import OURS, Job, Overdue
from crib.model.errors import InvalidRequest
from crib.model.facts import RootfsFacts
from crib.model.ids import ContainerId
from crib.model.paths import Paths

_log = logging.getLogger(__name__)

_FACT_LIMIT = 1 << 20
_OF_THE_IMAGE = {errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG}
"""What opening or reading a file says where the image is to blame, not the host."""
WRITABLE_SECONDS = 3.0
"""That a removal waits for the disk of the writable layers; one of 10,000 files takes half a second."""
_INITS = ("init", "systemd")
_MOUNT_POINTS = ("dev", "proc", "sys")
_MAX_VOLUMES = 128


def mount_root(
    paths: Paths,
    container: ContainerId,
    layers: Sequence[str],
    idmap: PodIdMap | None = None,
    context: str = "",
) -> str:
    """Mount the container's root over `layers` (lowest first), labelled `context`, and return its path.

    With `idmap` root's files in the layers are the pod's root's, and so is what the container writes. Blocks;
    idempotent after a crash.
    """
    root = paths.rootfs(container)
    if idmap is not None:
        let_through(paths.container(container), idmap)
    writable = paths.writable_layer(container)
    os.makedirs(writable, mode=0o700, exist_ok=True)
    for name, mode in (("upper", 0o755), ("work", 0o700)):
        make_directory(f"{writable}/{name}", mode)
        own(f"{writable}/{name}", idmap)
    with id_mapped_layers(idmap, layers, f"{paths.container(container)}/layers") as shown:
        mounts.perform(
            mounts.Overlay(
                target=root,
                lower=tuple(reversed(shown)),
                upper=f"{writable}/upper",
                work=f"{writable}/work",
                context=context,
            )
        )
    return root


def check_mount_points(root: str) -> None:
    """InvalidRequest where the image has anything but directories at the places of the runtime's own mounts.

    Some versions of runtimes follow a link there and write on the host (CVE-2026-41579, CVE-2023-28642).
    """
    for name in _MOUNT_POINTS:
        try:
            status = os.lstat(f"{root}/{name}")
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidRequest(f"/{name} of the image is not a directory", field="image")


def unmount_root(paths: Paths, container: ContainerId) -> None:
    """Unmount the root and remove the bundle. Blocks; safe to repeat."""
    bundle = paths.container(container)
    while mounts.unmount(paths.rootfs(container), lazy=True):
        pass
    volumes = paths.image_volumes(container)
    if os.path.isdir(volumes):
        release_below(os.path.realpath(volumes))
    try:
        remove_tree(bundle)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        release_below(bundle)
        remove_tree(bundle)


async def remove_writable_layer(paths: Paths, container: ContainerId) -> None:
    """Nobody waits longer than WRITABLE_SECONDS for its disk: the thread continues by itself. Safe to repeat.

    OSError; Overdue where no thread has begun. What stays on a disk that is read-only, or was given up, is
    removed by the next start: nothing of it is in use any more.
    """
    begun, given_up = threading.Event(), threading.Event()

    def remove() -> None:
        begun.set()
        try:
            remove_tree(paths.writable_layer(container))
        except OSError as error:
            if error.errno != errno.EROFS and not given_up.is_set():
                raise
            _log.warning("the writable layer of container %s stays: %s", container, error)

    what = f"removing the writable layer of container {container}"
    try:
        await OURS.run(Job(what, container, WRITABLE_SECONDS, stop=given_up.set), remove)
    except Overdue as error:
        if not begun.is_set():
            raise
        _log.warning("%s", error)


def read_facts(root: str, command: str = "") -> RootfsFacts:
    """The user database of a root, and which init system the command is.

    A file that is missing is empty, one that is not a plain file is refused.
    """
    passwd, group = _text(root, "etc/passwd"), _text(root, "etc/group")
    is_init = command.startswith("/") and os.path.basename(command) in _INITS
    return RootfsFacts(passwd, group, _file_name(root, command) if is_init else "")


def _file_name(root: str, path: str) -> str:
    """Of the file that the path leads to, empty when there is none."""
    with contextlib.suppress(OSError):
        root_fd = open_root(root)
        try:
            fd = open_in_root(root_fd, path, os.O_PATH)
        finally:
            os.close(root_fd)
        try:
            return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
    return ""


def _text(root: str, path: str) -> str:
    try:
        return read_in_root(root, path, _FACT_LIMIT).decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        if error.errno in _OF_THE_IMAGE:
            raise failure(f"/{path} of the image cannot be used", error, field="image") from error
        raise failure(f"reading /{path} of the image in {root}", error) from error


def make_directories(
    root: str, working_dir: str, volumes: Sequence[str], idmap: PodIdMap | None = None
) -> None:
    """The working directory and the image's declared volumes, where the image has none."""
    owner = (idmap.uid, idmap.gid) if idmap is not None else None
    if len(volumes) > _MAX_VOLUMES:
        raise InvalidRequest(
            f"the image declares {len(volumes)} volumes, more than {_MAX_VOLUMES}", field="image"
        )
    root_fd = open_root(root)
    try:
        for path, field in [
            (working_dir, "working_dir"),
            *((volume, "image") for volume in volumes),
        ]:
            if path == "/":
                continue
            try:
                os.close(make_dirs_in_root(root_fd, path, owner=owner))
            except OSError as error:
                if error.errno in {errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.EEXIST}:
                    raise failure(f"{path} cannot be a directory", error, field=field) from error
                raise failure(f"making {path} in {root}", error) from error
    finally:
        os.close(root_fd)
