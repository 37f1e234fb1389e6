"""The directories that the settings name, and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

from crib.model.settings import Settings
from crib.setup.host import HostView, SetupFinding, note, ok, problem

MIN_FREE = 5 << 30
"""Bytes; a few images take as much."""
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse")
_NO_EROFS_FILES = ("tmpfs", "ramfs", "overlay")


def look(host: HostView, settings: Settings) -> Iterator[SetupFinding]:
    """Where data and state lie, how much room there is, and swap."""
    kind, place = _file_system(host, settings.data)
    if kind.startswith(_REMOTE):
        text = f"{settings.data} is on {kind} ({place}): pods would hang with its server"
        yield problem("storage", "data", text, "set data to a directory on a local disk")
    elif kind in _NO_EROFS_FILES:
        text = f"{settings.data} is on {kind}: layers cannot be mounted without loop devices"
        yield note("storage", "data", text, "set data to a directory on a disk's file system")
    else:
        yield ok("storage", "data", f"{settings.data} is on {kind or 'an unknown file system'} ({place})")
    free = _free(host, settings.data)
    text = f"{free / (1 << 30):.1f} GiB free below {settings.data}"
    if free < MIN_FREE:
        yield note("storage", "free space", text, "make room, or set data to a larger file system")
    else:
        yield ok("storage", "free space", text)
    kind, place = _file_system(host, settings.state)
    if kind == "tmpfs":
        yield ok("storage", "state", f"{settings.state} is on a tmpfs ({place})")
    else:
        text = f"{settings.state} is on {kind or 'an unknown file system'}: its disk may hold pods up"
        yield note("storage", "state", text, "set state to a directory below /run")
    if len(host.lines("/proc/swaps")) > 1:
        text = "on: a kubelet refuses to start, unless failSwapOn is false"
        yield note("memory", "swap", text, "swapoff -a, and take swap out of /etc/fstab")
    else:
        yield ok("memory", "swap", "off")


def _existing(host: HostView, path: str) -> str:
    while not host.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _free(host: HostView, path: str) -> int:
    status = os.statvfs(host.path(_existing(host, path)))
    return status.f_bavail * status.f_frsize


def _file_system(host: HostView, path: str) -> tuple[str, str]:
    """Its type, and where it is mounted (proc(5), mountinfo)."""
    path = _existing(host, path)
    best = ("", "")
    for line in host.lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        place = before.split(" ")[4].encode().decode("unicode_escape")
        inside = path == place or path.startswith(f"{place.rstrip('/')}/")
        if inside and len(place) >= len(best[1]):
            best = after.split(" ")[0], place
    return best
