"""SELinux: is it on, what the policy calls a container, is a context known, and labels of files.

selinux(8), lxc_contexts(5), xattr(7). A label of a file is its extended attribute `security.selinux`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from crib.host import libc

FILE_SYSTEM = "/sys/fs/selinux"
CONFIG = "/etc/selinux/config"
CONTAINER_CONTEXTS = "/usr/share/containers/selinux/contexts"
ATTRIBUTE = "security.selinux"
_FILE_LIMIT = 1 << 16
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS


class LabellingLimit(OSError):
    """A tree has more files than may be labelled, or it takes longer than it may."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one relabelling may do, in files and seconds."""

    files: int = 5_000_000
    seconds: float = 240.0


def is_enabled(file_system: str = FILE_SYSTEM) -> bool:
    """Whether the kernel has SELinux, it is on, and a policy is loaded."""
    return os.path.exists(f"{file_system}/enforce")


def container_contexts(config: str = CONFIG, newest: str = CONTAINER_CONTEXTS) -> dict[str, str]:
    """What the policy's file of container contexts says: `process`, `file`, `ro_file`, … to a context.

    The file of container-selinux, else `contexts/lxc_contexts` of the policy in use. Empty when neither is
    there.
    """
    for path in (newest, f"{os.path.dirname(config)}/{_policy(config)}/contexts/lxc_contexts"):
        try:
            return dict(_pairs(path))
        except OSError:
            continue
    return {}


def _policy(config: str) -> str:
    try:
        return dict(_pairs(config)).get("SELINUXTYPE", "targeted")
    except OSError:
        return "targeted"


def _pairs(path: str) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read(_FILE_LIMIT).splitlines()
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and line.lstrip()[:1] not in ("#", ";"):
            yield key.strip(), value.strip().strip('"')


def is_known(context: str, file_system: str = FILE_SYSTEM) -> bool:
    """Whether the policy in use knows this context."""
    try:
        with open(f"{file_system}/context", "wb", buffering=0) as file:
            file.write(context.encode() + b"\0")
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def label_of_shared_files() -> str:
    """The context of files that containers of every pod may read: the policy's `ro_file`, else its `file`.
    Without a category, neither is one pod's own. Empty without SELinux.
    """
    said = container_contexts() if is_enabled() else {}
    return said.get("ro_file", "") or said.get("file", "")


def label_file(path: str, label: str) -> bool:
    """Label one file of any kind without following a link; returns whether that changed anything.

    A file system without labels is left alone.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _label(fd, label.encode())
    finally:
        os.close(fd)


def relabel_tree(path: str, label: str, bounds: Bounds = Bounds()) -> int:
    """Label `path` and everything below it, `path` itself last; returns how many labels changed.

    Others may move files in the tree meanwhile: nothing outside of it is touched. Correct labels are not
    written again, so that a second attempt continues where the first one stopped.

    LabellingLimit beyond `bounds`.
    """
    wanted = label.encode()
    deadline = time.monotonic() + bounds.seconds
    top = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        changed = 0
        for seen, fd in enumerate(_below(top), 1):
            if seen > bounds.files:
                raise LabellingLimit(errno.E2BIG, f"more than {bounds.files} files to label", path)
            if seen % 64 == 0 and time.monotonic() > deadline:
                raise LabellingLimit(
                    errno.ETIMEDOUT, f"labelling takes longer than {bounds.seconds:g} s ({seen} files)", path
                )
            changed += _label(fd, wanted)
        return changed + _label(top, wanted)
    finally:
        os.close(top)


def _below(top: int) -> Iterator[int]:
    """A descriptor (O_PATH) of everything in a tree but the top, each valid until the next one."""
    waiting = ["."] if os.path.isdir(f"/proc/self/fd/{top}") else []
    while waiting:
        directory = waiting.pop()
        try:
            fd = libc.openat2(top, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve=_BENEATH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # gone or exchanged meanwhile
                continue
            raise
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{directory}/{entry.name}")
                    try:
                        found = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                    except FileNotFoundError:
                        continue
                    try:
                        yield found
                    finally:
                        os.close(found)
        finally:
            os.close(fd)


def _label(fd: int, wanted: bytes) -> bool:
    place = f"/proc/self/fd/{fd}"
    try:
        if os.getxattr(place, ATTRIBUTE).rstrip(b"\0") == wanted:
            return False
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
    try:
        os.setxattr(place, ATTRIBUTE, wanted)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return False
        raise
    return True
