"""A container's root, made of layers before crun runs, where the host did not make it.

config.json says so in the annotation `crib.vm/root`, whose value is JSON: `{"layers": ["layers/0", …],
"upper": "upper", "work": "work"}`, the topmost layer first. Paths are below the bundle. A layer is a file
with EROFS, or a directory.
"""

from __future__ import annotations

import errno
import os

from crib.vm.guest import kernel
from crib.vm.guest.errors import INTERNAL, INVALID_ARGUMENT, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANNOTATION = "crib.vm/root"
MOST_LAYERS = 500
"""Of one overlay (kernel fs/overlayfs)."""
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_LOOP_CONFIG_BYTES = 304


class Root:
    """What was mounted for a container's root, in order."""

    def __init__(self) -> None:
        self.mounts: list[str] = []
        self.directories: list[str] = []

    def unmount(self) -> None:
        """Take it back. Safe to repeat."""
        while self.mounts:
            kernel.unmount(self.mounts.pop())
        while self.directories:
            os.rmdir(self.directories.pop())


def mount(bundle: str, place: str) -> Root | None:
    """Make the root that the bundle's config.json asks for at its root.path; None if the host made one.

    Layers are mounted below `place`. Failure names what is wrong with the annotation or the bundle.
    """
    wanted, target = _wanted(bundle)
    if wanted is None:
        return None
    root = Root()
    try:
        lower = []
        _make(root, place)
        for number, name in enumerate(wanted["layers"]):
            source = _below(bundle, name)
            if not os.path.isdir(source):
                source = _layer(root, source, f"{place}/{number}")
            lower.append(source)
        options = "lowerdir=" + ":".join(lower)
        if upper := wanted.get("upper"):
            options += f",upperdir={_below(bundle, upper)},workdir={_below(bundle, wanted['work'])}"
        _stack(target, options)
        root.mounts.append(target)
    except BaseException:
        root.unmount()
        raise
    return root


def _stack(target: str, options: str) -> None:
    try:
        kernel.mount("crib", target, "overlay", 0, options)
    except OSError as error:
        # A shared directory is taken as the topmost only where it keeps trusted attributes.
        said = "the layers cannot be stacked (virtiofsd needs xattr, and CAP_SYS_ADMIN to keep trusted ones)"
        raise Failure(INTERNAL, f"{ANNOTATION}: {said}: {error}") from None


def features() -> list[str]:
    """What the kernel can mount for a root."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return ["erofs", "overlay", *(["erofs-file"] if release >= (6, 12) else [])]


def _layer(root: Root, source: str, place: str) -> str:
    _make(root, place)
    try:
        kernel.mount(source, place, "erofs", kernel.MS_RDONLY)
    except OSError as error:
        if error.errno not in (errno.ENOTBLK, errno.EINVAL, errno.ENODEV):
            raise
        path, device = _loop_device(source)
        try:
            kernel.mount(path, place, "erofs", kernel.MS_RDONLY)
        finally:
            os.close(device)  # the mount holds it from now on, or nobody does
    root.mounts.append(place)
    return place


def _loop_device(source: str) -> tuple[str, int]:
    """A loop device over a file, and a descriptor: it ends with its last user (include/uapi/linux/loop.h)."""
    import fcntl

    if not os.path.exists("/dev/loop-control"):
        kernel.load_module(kernel.module("loop"))
    backing = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            config = bytearray(_LOOP_CONFIG_BYTES)
            config[0:4] = backing.to_bytes(4, "little")
            config[4:8] = (512).to_bytes(4, "little")
            flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
            config[60:64] = flags.to_bytes(4, "little")
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, bytes(config))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
                continue  # somebody else took it
            return path, device
    finally:
        os.close(control)
        os.close(backing)


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
        layers, path = wanted["layers"], config["root"]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(INVALID_ARGUMENT, f"{ANNOTATION}: it cannot be used: {error}") from None
    if not layers or len(layers) > MOST_LAYERS:
        raise Failure(INVALID_ARGUMENT, f"{ANNOTATION}: there are {len(layers)} layers")
    return wanted, path if path.startswith("/") else f"{bundle}/{path}"


def _below(bundle: str, name: str) -> str:
    if name.startswith("/") or ".." in name.split("/") or any(sign in name for sign in ":,\\"):
        raise Failure(INVALID_ARGUMENT, f"{ANNOTATION}: {name!r} is no path below the bundle")
    return f"{bundle}/{name}"


def _make(root: Root, path: str) -> None:
    os.mkdir(path, 0o700)
    root.directories.append(path)
