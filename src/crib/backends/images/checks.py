"""Whether a layer on disk is still what was written: its file against the digests in the image's record.

What a check sees: every byte of the file as the disk gives it now. It reads past the page cache (open(2),
O_DIRECT), so that a rotten block is found although a good copy of it is still in memory, and so that
checking a node's images does not push what containers use out of memory. What it cannot see: a page that
went bad in memory alone, which containers read until it is dropped; and damage on a disk that answers reads
from a cache of its own. Where the file system has no direct reads the page cache is read, and the file's
pages are dropped from it afterwards; a block that rotted after it was cached is not found there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator

from crib.model.image import Layer
from crib.wire.erofs import DATA_OFFSET, SUPERBLOCK_OFFSET

_MAGIC = bytes.fromhex("e2e1f5e0")
"""First bytes of an EROFS superblock (kernel, fs/erofs/erofs_fs.h)."""
_PIECE = 1 << 20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def check_layer(path: str, layer: Layer) -> str:
    """What is wrong with the file of a layer; empty when it is as it was written.

    Blocks as long as reading the file takes: for a thread. Hashing and reading release the interpreter's lock
    for each piece of 1 MiB. A record from before digests were kept has none: then only kind, size and
    superblock are looked at. A disk that cannot be read is a finding, not an error.
    """
    try:
        try:
            return _checked(path, layer, os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return _checked(path, layer, 0)
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"{path} is a symbolic link, not a regular file"
        return f"{path} cannot be read: {error.strerror}"


def _checked(path: str, layer: Layer, direct: int) -> str:
    fd = os.open(path, _FLAGS | direct)
    try:
        return _difference(fd, path, layer)
    finally:
        if not direct:
            with contextlib.suppress(OSError):  # a pipe, which has no pages
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def _difference(fd: int, path: str, layer: Layer) -> str:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is not a regular file"
    if status.st_size != layer.size:
        return f"{path} has {status.st_size} bytes, {layer.size} were written"
    if layer.data_size > layer.size - DATA_OFFSET:
        return f"{path} has {layer.size} bytes, too few for the {layer.data_size} of data in its record"
    data, rest = hashlib.sha256(), hashlib.sha256()
    end = DATA_OFFSET + layer.data_size
    position = 0
    whole = bool(layer.data_digest or layer.rest_digest)
    for piece in _pieces(fd, None if whole else DATA_OFFSET):
        if position == 0 and piece[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + len(_MAGIC)] != _MAGIC:
            return f"{path} has no EROFS superblock"
        first, second = (min(max(edge - position, 0), len(piece)) for edge in (DATA_OFFSET, end))
        rest.update(piece[:first])
        data.update(piece[first:second])
        rest.update(piece[second:])
        position += len(piece)
    if whole and position != layer.size:
        return f"{path} ends after {position} bytes, {layer.size} were written"
    for what, found, recorded in (
        ("data", data.hexdigest(), layer.data_digest),
        ("metadata", rest.hexdigest(), layer.rest_digest),
    ):
        if recorded and f"sha256:{found}" != recorded:
            return f"{path} is damaged: its {what} has digest sha256:{found}, {recorded} was written"
    return ""


def _pieces(fd: int, size: int | None) -> Iterator[memoryview]:
    """The file in pieces, or its first bytes as one; each is good until the next is asked for."""
    # Direct reads want memory that begins at a page, and lengths of whole blocks, also at the file's end.
    view = memoryview(mmap.mmap(-1, _PIECE))
    position = 0
    while count := os.preadv(fd, [view[:size]], position):
        yield view[:count]
        if size is not None:
            return
        position += count
