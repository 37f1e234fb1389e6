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

from crib.backends.failures import why
from crib.backends.images.rest_digest import WINDOW, RestDigest, windows
from crib.model.image import Layer
from crib.wire.erofs import DATA_OFFSET, SUPERBLOCK_OFFSET

_MAGIC = bytes.fromhex("e2e1f5e0")
"""First bytes of an EROFS superblock (kernel, fs/erofs/erofs_fs.h)."""
_PIECE = WINDOW
_BLOCK = 4096
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
        return f"{path} cannot be read: {why(error, path)}"


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
    algorithm = layer.data_digest.partition(":")[0] or "sha256"
    found_rest, data = RestDigest(), hashlib.new(algorithm)
    end = DATA_OFFSET + layer.data_size
    reader = _Reader(fd)
    head = reader.read(0, DATA_OFFSET)
    if head[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + len(_MAGIC)] != _MAGIC:
        return f"{path} has no EROFS superblock"
    if not (layer.data_digest or layer.rest_digest):
        return ""
    for position in range(DATA_OFFSET, end, _PIECE):
        data.update(reader.read(position, min(_PIECE, end - position)))
    found_rest.add(0, head)
    for position, length in windows(fd, end, layer.size):
        found_rest.add(position, reader.read(position, length))
    for what, found, recorded in (
        ("data", f"{algorithm}:{data.hexdigest()}", layer.data_digest),
        ("metadata", found_rest.value, layer.rest_digest),
    ):
        if recorded and found != recorded:
            return f"{path} is damaged: its {what} has digest {found}, {recorded} was written"
    return ""


class _Reader:
    """Reads pieces of a file that may be open for direct reads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Direct reads want memory that begins at a page, and places and lengths of whole blocks.
        self._view = memoryview(mmap.mmap(-1, WINDOW + 2 * _BLOCK))

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes, at most WINDOW; OSError when the file ends before."""
        before = offset % _BLOCK
        wanted = before + length + -(before + length) % _BLOCK
        got = 0
        while got < wanted:
            count = os.preadv(self._fd, [self._view[got:wanted]], offset - before + got)
            if not count or count % _BLOCK:
                raise OSError(errno.EIO, f"it ends inside the {length} bytes at {offset}")
            got += count
        return bytes(self._view[before : before + length])
