"""A container's root, made of disks before crun runs, where the host did not make it.

config.json says so in the annotation `crib.vm/root`, whose value is JSON: `{"layers": [3, 2], "disk": 4}`.
These are numbers of disks (crib.vm.guest.disks). A layer has an EROFS, the topmost comes first. What the
container writes goes to the disk, which has an ext4 with the directories `upper` and `work`.
"""

from __future__ import annotations

import os

from crib.vm.guest import disks, kernel
from crib.vm.guest.errors import INTERNAL, INVALID_ARGUMENT, NOT_FOUND, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crib.vm.guest.loop import Job, Loop

ANNOTATION = "crib.vm/root"
MOST_LAYERS = 500
"""Of one overlay (kernel fs/overlayfs)."""
_MODULES = ("crc16", "mbcache", "jbd2", "ext4")
"""Where ext4 is not built into the kernel."""
_LAYER = ("erofs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV, "")
"""How it is mounted: type, flags and options. An overlay looks at its own flags for set-uid programs and
device nodes.
"""
_DISK = ("ext4", 0, "discard,noinit_itable")
"""What is deleted inside is given back to the host. The host has made the file: what it has not written is
zero already.
"""
OWN_INODES = 13
"""Of an empty disk: ten that ext4 keeps for itself, lost+found, `work`, and what overlayfs makes in that."""
MOST_USER_BYTES = 1 << 20
_NODE = 0o170000
_FILE = 0o100000


class StackedRoot:
    """What was mounted for a container's root, in order."""

    def __init__(self) -> None:
        self.mounts: list[str] = []
        self.directories: list[str] = []
        self.disk = ""
        """Where its disk is mounted."""
        self.path = ""

    def unmount(self) -> None:
        """Take it back. Safe to repeat."""
        while self.mounts:
            kernel.unmount(self.mounts.pop())
        while self.directories:
            os.rmdir(self.directories.pop())

    def written(self) -> dict[str, int]:
        """The answer of Written."""
        found = os.statvfs(self.disk)
        return {
            "bytes": (found.f_blocks - found.f_bfree) * found.f_frsize,
            "inodes": max(0, found.f_files - found.f_ffree - OWN_INODES),
            "size": found.f_blocks * found.f_frsize,
            "most_inodes": found.f_files - OWN_INODES,
        }

    def users(self) -> dict[str, bytes]:
        """The answer of Users."""
        top = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return {"passwd": _text(top, "etc/passwd"), "group": _text(top, "etc/group")}
        finally:
            os.close(top)


def mount(loop: Loop, bundle: str, place: str) -> Job:
    """Make the root that the bundle's config.json asks for at its root.path; None if the host made one.

    Its parts are mounted below `place`. Failure names what is wrong with the annotation or a disk.
    """
    wanted, target = _wanted(bundle)
    if wanted is None:
        return None
    root = StackedRoot()
    try:
        _make(root, place)
        kernel.load(*_MODULES)
        for number, lun in enumerate(wanted["layers"]):
            name = yield from disks.find(loop, lun)
            _mount(root, name, f"{place}/{number}", _LAYER)
        name = yield from disks.find(loop, wanted["disk"])
        root.disk, root.path = f"{place}/disk", target
        _mount(root, name, root.disk, _DISK)
        _stack(place, len(wanted["layers"]), target)
        root.mounts.append(target)
    except BaseException:
        root.unmount()
        raise
    return root


def _mount(root: StackedRoot, disk: str, place: str, how: tuple[str, int, str]) -> None:
    kind, flags, options = how
    _make(root, place)
    try:
        kernel.mount(f"/dev/{disk}", place, kind, flags, options)
    except OSError as error:
        raise Failure(INTERNAL, f"{ANNOTATION}: {disk} is not taken as {kind}: {error}") from None
    root.mounts.append(place)


def _stack(place: str, layers: int, target: str) -> None:
    """Options of a mount have 4096 bytes, so the parts have short names, from where they are."""
    os.chdir(place)
    try:
        lower = ":".join(str(number) for number in range(layers))
        kernel.mount("crib", target, "overlay", 0, f"lowerdir={lower},upperdir=disk/upper,workdir=disk/work")
    except OSError as error:
        raise Failure(INTERNAL, f"{ANNOTATION}: the layers cannot be stacked: {error}") from None
    finally:
        os.chdir("/")


def _wanted(bundle: str) -> tuple[dict[str, Any] | None, str]:
    try:
        with open(f"{bundle}/config.json") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        raise Failure(INVALID_ARGUMENT, f"bundle: its config.json cannot be read: {error}") from None
    if ANNOTATION not in text:  # reading JSON needs more of the library than all else here
        return None, ""
    import json

    config = json.loads(text)
    if (value := config.get("annotations", {}).get(ANNOTATION)) is None:
        return None, ""
    try:
        wanted = json.loads(value)
        layers, disk, path = wanted["layers"], wanted["disk"], config["root"]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(INVALID_ARGUMENT, f"{ANNOTATION}: it cannot be used: {error!r}") from None
    if not layers or len(layers) > MOST_LAYERS:
        raise Failure(INVALID_ARGUMENT, f"{ANNOTATION}: there are {len(layers)} layers")
    if not all(type(number) is int and number >= 0 for number in (*layers, disk)):
        raise Failure(INVALID_ARGUMENT, f"{ANNOTATION}: disks are numbers, from 0 on")
    return wanted, path if path.startswith("/") else f"{bundle}/{path}"


def _make(root: StackedRoot, path: str) -> None:
    os.mkdir(path, 0o700)
    root.directories.append(path)


def _text(top: int, path: str) -> bytes:
    """Of a plain file below a root, which no link leads out of; empty where there is none."""
    try:
        descriptor = kernel.open_in_root(top, path)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    try:
        found = os.fstat(descriptor)
        if found.st_mode & _NODE != _FILE or found.st_size > MOST_USER_BYTES:
            raise Failure(NOT_FOUND, f"/{path} is no plain file of at most {MOST_USER_BYTES} bytes")
        return os.read(descriptor, MOST_USER_BYTES)
    finally:
        os.close(descriptor)
