"""Files with an ext4 for a machine that nobody mounts here: made by mke2fs(8), and looked at as bytes.

What a guest has written is never given to this kernel. Only the numbers of the superblock are read, which may
say anything.
"""

from __future__ import annotations

import os
import struct

from crib.host import processes
from crib.host.threads import OURS

MAKER = "mke2fs"
MAKE_SECONDS = 60.0
"""To make one; it writes some hundred KiB, whatever the size."""
_FEATURES = (
    "none,filetype,sparse_super,large_file,huge_file,dir_nlink,dir_index,ext_attr,extent,flex_bg,64bit,"
    "extra_isize,uninit_bg"
)
"""No journal: what is in it does not outlive its machine. The same on every node, whatever mke2fs.conf says.
"""
_BYTES_PER_INODE = 16384
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MKE2FS_CONFIG": os.devnull}
_SUPERBLOCK = 1024
_MAGIC = 0xEF53
_OWN_INODES = 11
"""The first ten, and lost+found."""


async def make_ext4_file(program: str, path: str, size: int, content: str) -> None:
    """Make a sparse file of `size` bytes, with what is in the directory `content`. It must not be there yet.

    OSError, processes.ProgramFailed.
    """
    await OURS.run(f"making the file {path}", _make_sparse, path, size)
    words = (
        *(program, "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", "4096", "-I", "256"),
        *("-i", str(_BYTES_PER_INODE), "-m", "0", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"),
        *("-d", content, path),
    )
    (await processes.run(words, timeout=MAKE_SECONDS, env=_ENVIRONMENT)).check()


def _make_sparse(path: str, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def used_inodes(path: str) -> int:
    """Without those of an empty one. As its superblock says, which is right when it was unmounted.

    0 for what is no ext4. Blocks. OSError.

    Kernel, Documentation/filesystems/ext4/super.rst: s_inodes_count, s_free_inodes_count, s_magic.
    """
    with open(path, "rb") as file:
        file.seek(_SUPERBLOCK)
        block = file.read(64)
    if len(block) < 64 or struct.unpack_from("<H", block, 56)[0] != _MAGIC:
        return 0
    (count,), (free,) = struct.unpack_from("<I", block, 0), struct.unpack_from("<I", block, 16)
    return max(0, int(count - free) - _OWN_INODES)
