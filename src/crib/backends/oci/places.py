"""Where in a container's root a path really lies, and which of those places no volume may take."""

from __future__ import annotations

import errno
import os

from crib.host.files import open_root
from crib.host.mount_table import read_mounts
from crib.model.container import ContainerConfig
from crib.model.errors import InvalidRequest

_MAX_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"),
        *("net/dev", "sys/kernel/ns_last_pid"),
    )
)
"""What programs such as lxcfs lay over; runc takes these too."""


def place_in_root(root_fd: int, path: str) -> str:
    """`path` without symbolic links, as a process in that root sees it; what is missing stays as it is.

    Links that lead to nothing are followed too: what they name may be there when the container runs, as all
    of /proc. Nobody may change the root meanwhile. OSError (ELOOP) when the links have no end.
    """
    place: list[str] = []
    waiting = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            del place[-1:]
            continue
        try:
            target = os.readlink("/".join((*place, part)), dir_fd=root_fd)
        except OSError:  # no link, or not there
            place.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            place.clear()
        waiting += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
    return "/" + "/".join(place)


def check_places(root: str, config: ContainerConfig) -> None:
    """Refuse mounts that would hide /proc or parts of it, by whatever links of the image they get there.

    Labels, profiles and masks of the container are set through it (CVE-2019-16884); crun 1.8 does not look.
    """
    if not config.mounts:
        return
    root_fd = open_root(root)
    try:
        for position, mount in enumerate(config.mounts):
            field = f"config.mounts[{position}].container_path"
            try:
                place = place_in_root(root_fd, mount.container_path)
            except OSError as error:
                text = f"{mount.container_path} cannot be reached in the image: {error.strerror}"
                raise InvalidRequest(text, field=field) from error
            if place == "/":
                text = f"{mount.container_path} is the container's root by links of the image"
                raise InvalidRequest(text, field=field)
            hides = place == "/proc" or (place.startswith("/proc/") and place not in _PROC_FILES)
            if hides and not (place == "/proc" and _is_proc(mount.host_path)):
                raise InvalidRequest(f"a volume at {place} would hide a part of proc", field=field)
    finally:
        os.close(root_fd)


def _is_proc(path: str) -> bool:
    real = os.path.realpath(path) if path else ""
    found = [entry.fstype for entry in read_mounts() if entry.path == real]
    return bool(found) and found[-1] == "proc"
