"""Mounts: values that describe them, and functions that make and undo them.

A bind mount or a new file system is made detached, given its attributes, and only then attached. So no
process ever sees a read-only mount while it is still writable. All calls take less than a millisecond, unless
a file system below a mount hangs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from crib.host import libc
from crib.host.entering import on_own_thread
from crib.host.mount_table import is_mountpoint, mounts_below

__all__ = [
    "Bind",
    "Erofs",
    "Mount",
    "Overlay",
    "Tmpfs",
    "is_mountpoint",
    "make_private_root",
    "mounts_below",
    "perform",
    "set_propagation",
    "unmount",
    "unmount_tree",
]

_PROPAGATION = {
    "private": libc.MS_PRIVATE,
    "slave": libc.MS_SLAVE,
    "shared": libc.MS_SHARED,
    "unbindable": libc.MS_UNBINDABLE,
}
DISK_ATTRIBUTES = {
    "noexec": libc.MOUNT_ATTR_NOEXEC,
    "noatime": libc.MOUNT_ATTR_NOATIME,
    "nodiratime": libc.MOUNT_ATTR_NODIRATIME,
    "strictatime": libc.MOUNT_ATTR_STRICTATIME,
    "relatime": 0,
}
"""Options of mount(8) that are a mount's and not its file system's."""
_UNMOUNT_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount of `source` (a file or a directory) on `target` (which exists and is of the same kind).

    `recursive` takes the mounts below the source along. `read_only` concerns the mount itself,
    `recursive_read_only` all that it takes along too (CRI `Mount.recursive_read_only`, kernel 5.12).
    `idmap_fd` is a user namespace to shift the owners by (mount_setattr(2), MOUNT_ATTR_IDMAP). With
    `no_suid_dev` set-uid programs and device nodes do nothing when reached through this mount.
    """

    source: str
    target: str
    recursive: bool = True
    read_only: bool = False
    recursive_read_only: bool = False
    idmap_fd: int | None = None
    no_suid_dev: bool = False


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A tmpfs of at most `size_bytes`, its root with `mode`; nosuid and nodev always."""

    target: str
    size_bytes: int
    mode: int = 0o755
    no_exec: bool = False


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay of `lower` directories, the topmost first; without `upper` and `work` it is read-only.

    `flags` are further options of overlayfs, such as `volatile` or `metacopy=on` (kernel,
    filesystems/overlayfs). `context` is the SELinux context of all files in it (mount(8)).
    """

    target: str
    lower: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    flags: tuple[str, ...] = ()
    read_only: bool = False
    context: str = ""


@dataclass(frozen=True, slots=True)
class Erofs:
    """A read-only EROFS from `source`, a block device or (kernel 6.12) a regular file, nosuid and nodev.

    `direct_io` reads a regular file past the page cache of the file system that it lies on. ENOTBLK says that
    this kernel, or the file system that the file lies on, cannot do it without a loop device.
    """

    target: str
    source: str
    direct_io: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system `fstype` on the block device `source`, nosuid and nodev always.

    `options` are those of mount(8): attributes of the mount, such as `noatime`, and the file system's own.
    """

    target: str
    source: str
    fstype: str
    options: tuple[str, ...] = ()
    read_only: bool = False


Mount = Bind | Tmpfs | Overlay | Erofs | Disk


def perform(mount: Mount) -> None:
    """Make the mount. OSError names the target and says in the kernel's own words what was wrong."""
    match mount:
        case Bind():
            _bind(mount)
        case Tmpfs():
            _tmpfs(mount)
        case Overlay():
            _overlay(mount)
        case Erofs():
            _erofs(mount)
        case Disk():
            _disk(mount)


def set_propagation(
    path: str, kind: Literal["private", "slave", "shared", "unbindable"], *, recursive: bool = False
) -> None:
    """Change how mount events travel at the mount `path` (kernel, filesystems/sharedsubtree)."""
    libc.mount(None, path, None, _PROPAGATION[kind] | (libc.MS_REC if recursive else 0))


def make_private_root(path: str, *, unbindable: bool = False) -> None:
    """Make the directory `path` a mount that keeps mounts below it in this namespace; safe to repeat.

    Otherwise a shared root would copy every mount below into other mount namespaces, where it would keep
    layers and namespaces busy after we release them. `unbindable` also keeps it out of recursive bind mounts
    of directories above (a host path `/` in a container). Then it may hold mounts only: plain files in it can
    neither be bound into a container nor serve overlayfs as an upper or lower directory (EINVAL).
    """
    if not is_mountpoint(path):
        perform(Bind(path, path, recursive=False))
    set_propagation(path, "unbindable" if unbindable else "private")


def unmount(path: str, *, lazy: bool = False) -> bool:
    """Unmount the topmost mount at `path`; False when nothing is mounted there or the path is missing.

    A symbolic link is never followed. Busy mounts raise EBUSY, or are detached now and end with their last
    user when `lazy`.
    """
    try:
        libc.umount2(path, libc.UMOUNT_NOFOLLOW | (libc.MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOENT}:
            return False
        raise
    return True


def unmount_tree(path: str, *, lazy: bool = True) -> int:
    """Unmount everything at and below `path`, the newest first; returns how many mounts there were.

    Bounded: a tree that another process keeps filling raises EBUSY.
    """
    count = 0
    for _ in range(_UNMOUNT_ROUNDS):
        entries = mounts_below(path)
        if not entries:
            return count
        for entry in entries:
            count += unmount(entry.path, lazy=lazy)
    raise OSError(errno.EBUSY, "mounts keep appearing", path)


@contextlib.contextmanager
def _fs_context(fstype: str, target: str) -> Iterator[int]:
    """A file system context whose errors carry the kernel's explanation and the target."""
    fs_fd = libc.fsopen(fstype)
    try:
        yield fs_fd
    except OSError as error:
        number = error.errno or errno.EIO
        words = "; ".join([os.strerror(number), *_explanations(fs_fd)])
        raise OSError(number, f"mount of {fstype} failed: {words}", target) from error
    finally:
        os.close(fs_fd)


def _explanations(fs_fd: int) -> list[str]:
    messages: list[str] = []
    while len(messages) < 8:
        try:
            messages.append(os.read(fs_fd, 512).decode("utf-8", "replace").strip())
        except OSError:  # ENODATA: no more of them
            break
    return messages


def _attach_new(fs_fd: int, target: str, attributes: int) -> None:
    libc.fsconfig_create(fs_fd)
    mount_fd = libc.fsmount(fs_fd, attributes)
    try:
        libc.move_mount(mount_fd, target)
    finally:
        os.close(mount_fd)


def clone_tree(mount: Bind) -> int:
    """A detached copy of what is mounted at the source, with the bind's attributes; the caller closes it."""
    recursive = libc.AT_RECURSIVE if mount.recursive else 0
    mount_fd = libc.open_tree(mount.source, libc.OPEN_TREE_CLONE | recursive)
    try:
        if mount.idmap_fd is not None:
            libc.mount_setattr(mount_fd, 0, recursive=mount.recursive, userns_fd=mount.idmap_fd)
        if mount.no_suid_dev:
            inert = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV
            libc.mount_setattr(mount_fd, inert, recursive=mount.recursive)
        if mount.read_only or mount.recursive_read_only:
            libc.mount_setattr(mount_fd, libc.MOUNT_ATTR_RDONLY, recursive=mount.recursive_read_only)
    except BaseException:
        os.close(mount_fd)
        raise
    return mount_fd


def _bind(mount: Bind) -> None:
    try:
        mount_fd = clone_tree(mount)
        try:
            libc.move_mount(mount_fd, mount.target)
        finally:
            os.close(mount_fd)
    except OSError as error:
        raise OSError(error.errno, f"bind of {mount.source}: {error.strerror}", mount.target) from error


def _tmpfs(mount: Tmpfs) -> None:
    with _fs_context("tmpfs", mount.target) as fs_fd:
        libc.fsconfig_string(fs_fd, "size", str(mount.size_bytes))
        libc.fsconfig_string(fs_fd, "mode", f"{mount.mode:o}")
        libc.fsconfig_string(fs_fd, "source", "tmpfs")
        attributes = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV
        if mount.no_exec:
            attributes |= libc.MOUNT_ATTR_NOEXEC
        _attach_new(fs_fd, mount.target, attributes)


def _erofs(mount: Erofs) -> None:
    with _fs_context("erofs", mount.target) as fs_fd:
        libc.fsconfig_string(fs_fd, "source", mount.source)
        libc.fsconfig_flag(fs_fd, "ro")
        if mount.direct_io:
            libc.fsconfig_flag(fs_fd, "directio")
        _attach_new(
            fs_fd, mount.target, libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV
        )


def _disk(mount: Disk) -> None:
    attributes = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV
    with _fs_context(mount.fstype, mount.target) as fs_fd:
        libc.fsconfig_string(fs_fd, "source", mount.source)
        if mount.read_only:
            libc.fsconfig_flag(fs_fd, "ro")
            attributes |= libc.MOUNT_ATTR_RDONLY
        for option in mount.options:
            if option in DISK_ATTRIBUTES:
                attributes |= DISK_ATTRIBUTES[option]
            else:
                _configure(fs_fd, option)
        _attach_new(fs_fd, mount.target, attributes)


def _configure(fs_fd: int, option: str) -> None:
    key, equals, value = option.partition("=")
    if equals:
        libc.fsconfig_string(fs_fd, key, value)
    else:
        libc.fsconfig_flag(fs_fd, key)


def _overlay(mount: Overlay) -> None:
    if not mount.lower or (mount.upper is None and len(mount.lower) < 2):
        raise ValueError(f"overlay on {mount.target} needs two lower directories, or one and an upper")
    if (mount.upper is None) != (mount.work is None):
        raise ValueError(f"overlay on {mount.target} needs both upper and work, or neither")
    try:
        _overlay_by_layers(mount)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before kernel 6.5 there is no `lowerdir+`, and a path of 256 bytes or more is refused in any kernel.
        _overlay_by_relative_paths(mount, error)


def _overlay_by_layers(mount: Overlay) -> None:
    with _fs_context("overlay", mount.target) as fs_fd:
        libc.fsconfig_string(fs_fd, "source", "overlay")
        for directory in mount.lower:
            libc.fsconfig_string(fs_fd, "lowerdir+", directory)
        if mount.upper is not None and mount.work is not None:
            libc.fsconfig_string(fs_fd, "upperdir", _escaped(mount.upper, "\\"))
            libc.fsconfig_string(fs_fd, "workdir", _escaped(mount.work, "\\"))
        if mount.context:
            libc.fsconfig_string(fs_fd, "context", mount.context)
        for flag in mount.flags:
            _configure(fs_fd, flag)
        _attach_new(fs_fd, mount.target, libc.MOUNT_ATTR_RDONLY if mount.read_only else 0)


def _escaped(path: str, special: str) -> str:
    return "".join(f"\\{char}" if char in special else char for char in path)


def overlay_options(mount: Overlay, base: str) -> str:
    """The option string of mount(2), with paths relative to `base`."""

    def relative(path: str) -> str:
        return _escaped(os.path.relpath(path, base), "\\:,")

    options = ["lowerdir=" + ":".join(relative(path) for path in mount.lower)]
    if mount.upper is not None and mount.work is not None:
        options += [f"upperdir={relative(mount.upper)}", f"workdir={relative(mount.work)}"]
    if mount.context:
        options.append(f'context="{mount.context}"')
    return ",".join([*options, *mount.flags])


def _overlay_by_relative_paths(mount: Overlay, first_error: OSError) -> None:
    """Mount with one option string, which must fit in a page: short paths, relative to what all of them
    share.

    The working directory belongs to the process, so a thread that takes its own copy of it (CLONE_FS) does
    the work and ends.
    """
    paths = [os.path.abspath(path) for path in (*mount.lower, mount.upper, mount.work) if path is not None]
    base = os.path.commonpath(paths)
    target = os.path.abspath(mount.target)
    options = overlay_options(mount, base)
    if len(os.fsencode(options)) >= os.sysconf("SC_PAGE_SIZE"):
        text = f"overlay of {len(mount.lower)} layers has longer options than a page takes"
        raise OSError(errno.E2BIG, text, mount.target) from first_error
    errors: list[OSError] = []

    def mount_here() -> None:
        try:
            libc.unshare(libc.CLONE_FS)
            os.chdir(base)
            libc.mount("overlay", target, "overlay", libc.MS_RDONLY if mount.read_only else 0, options)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=mount_here, name="overlay-mount", daemon=True)
    thread.start()
    thread.join()
    if errors:
        # The first error has the kernel's explanation, which mount(2) has not.
        first_error.add_note(f"with one option string: {errors[0]}")
        raise first_error from errors[0]


T = TypeVar("T")


def look_through(lower: Sequence[str], target: str, look: Callable[[str], T]) -> T:
    """Call `look` with the root of a read-only overlay of `lower`, the topmost first; returns its result.

    The overlay is mounted on the directory `target`, in the mount namespace of a thread that ends afterwards.
    A single directory needs no mount. Blocks; raises OSError, and whatever `look` raises.
    """
    if len(lower) == 1:
        return look(lower[0])

    def inside() -> T:
        libc.unshare(libc.CLONE_NEWNS)
        set_propagation("/", "slave", recursive=True)
        perform(Overlay(target=target, lower=tuple(lower), read_only=True))
        return look(target)

    return on_own_thread(inside)
