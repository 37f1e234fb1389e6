"""Parts of volumes (`subPath`): bound just before a container that mounts them is created."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from crib.client.errors import PodFailure
from crib.client.workloads.mounting import bind_descriptor, mounts_below, open_beneath

if TYPE_CHECKING:
    from crib.manifest.plan import ContainerPlan, SubPathPlan

PART = "/./"
"""Between a volume and a part of it, in the link that is kept beside a bound part."""


def bind_sub_paths(plan: ContainerPlan) -> None:
    """Bind the parts of volumes that a container mounts. PodFailure.

    The kernel resolves each of them inside its volume (a container may have left a link that leads out), and
    what was opened is bound, so nothing can be exchanged in between.
    """
    for part in plan.sub_paths:
        if part.target in mounts_below(part.target):
            continue  # the container is started again
        try:
            _bind(part)
        except OSError as error:
            where = f"container {plan.name}: subPath {part.inside} of {part.volume}"
            is_out = error.errno == errno.EXDEV
            words = "a symbolic link leads out of the volume" if is_out else error.strerror
            raise PodFailure(f"{where}: {words}") from error


def _bind(part: SubPathPlan) -> None:
    root = os.open(part.volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not part.generated:
            _make(root, part.inside)
        found = open_beneath(root, part.inside)
    finally:
        os.close(root)
    try:
        mode = os.fstat(found).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise OSError(errno.ENOTDIR, "neither a directory nor a file", part.inside)
        os.makedirs(os.path.dirname(part.target), mode=0o750, exist_ok=True)
        if stat.S_ISDIR(mode):
            os.makedirs(part.target, exist_ok=True)  # there since before a reboot
        else:
            os.close(os.open(part.target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with contextlib.suppress(FileExistsError):
            os.symlink(f"{part.volume}{PART}{part.inside}", f"{part.target}.source")
        bind_descriptor(found, part.target)
    finally:
        os.close(found)


def _make(root: int, inside: str) -> None:
    """Make the directories of the path that are not there, as a kubelet does: who may write the volume may
    write them."""
    with contextlib.suppress(FileNotFoundError):
        os.close(open_beneath(root, inside))
        return
    mode = stat.S_IMODE(os.fstat(root).st_mode)
    above = "."
    for name in inside.split("/"):
        parent = open_beneath(root, above, os.O_DIRECTORY)
        try:
            os.mkdir(name, dir_fd=parent)
        except FileExistsError:
            pass
        else:
            made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.chmod(f"/proc/self/fd/{made}", mode)
            finally:
                os.close(made)
        finally:
            os.close(parent)
        above = name if above == "." else f"{above}/{name}"
