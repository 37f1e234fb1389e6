"""The process that unpacks one layer, or takes the digest of one: root without rights beyond one directory.

It gets a layer's file and a directory by descriptor only, makes the directory its root, keeps the few
capabilities that making foreign files needs, does one thing, and says how it went on its output.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

import msgspec

from crib.backends.images.unpacked.tree_digest import digest_directory
from crib.backends.images.unpacked.tree_writer import TreeError, Written, write_tree
from crib.host import confinement, files, privileges, seccomp
from crib.wire.erofs_reader import MAX_DEPTH, ErofsError, ErofsImage

MAX_ANSWER = 16 << 20
"""Bytes of the answer at most."""
_WRITING = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP")
_READING = ("DAC_READ_SEARCH", "SYS_ADMIN")  # attributes named trusted.* are shown to SYS_ADMIN only
_SPARE_DESCRIPTORS = 64


class UnpackAnswer(msgspec.Struct, frozen=True):
    """How it went: an `error`, or the tree's digest and, of one that was made, what there is of it.

    `opaque` are the directories to be marked, `size` is what the synced tree takes on disk (bytes),
    `left_out` counts extended attributes that are not there.
    """

    error: str = ""
    full: bool = False
    """Whether the disk is full."""
    digest: str = ""
    opaque: list[bytes] = []
    size: int = 0
    inodes: int = 0
    left_out: int = 0


def unpack(source_fd: int, root_fd: int) -> Written:
    """Make the tree of the layer's file in an empty directory."""
    size = os.fstat(source_fd).st_size
    image = ErofsImage(lambda offset, length: os.pread(source_fd, length, offset), size)
    return write_tree(image, source_fd, root_fd)


def _answer(source_fd: int, root_fd: int) -> UnpackAnswer:
    try:
        if source_fd < 0:
            return UnpackAnswer(digest=digest_directory(root_fd))
        written = unpack(source_fd, root_fd)
        # What is allocated is known once it is on disk.
        files.sync_filesystem(root_fd)
        usage = files.disk_usage("/")
        left_out = written.left_out
        return UnpackAnswer("", False, written.digest, written.opaque, usage.bytes, usage.inodes, left_out)
    except (ErofsError, TreeError, OSError, MemoryError) as error:
        cause = error.__cause__ if isinstance(error, TreeError) else error
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        return UnpackAnswer(f"{error or type(error).__name__}"[:4000], full)


def main(arguments: list[str]) -> None:
    """Arguments: descriptors of the layer's file (-1: take the digest only) and the directory, our parent."""
    source_fd, root_fd, parent = map(int, arguments)
    if not stat.S_ISDIR(os.fstat(root_fd).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", f"descriptor {root_fd}")
    os.umask(0)
    # Once, to load what encoding needs: nothing can be loaded after the root has changed.
    msgspec.msgpack.encode(UnpackAnswer())
    privileges.limit(MAX_DEPTH + _SPARE_DESCRIPTORS)
    confinement.confine(root_fd, _READING if source_fd < 0 else _WRITING, parent)
    seccomp.confine(seccomp.TREES.values(), sockets=False)
    answer = _answer(source_fd, root_fd)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))
    sys.stdout.buffer.flush()
