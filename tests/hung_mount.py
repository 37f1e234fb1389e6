"""A file system that does not answer: a FUSE mount whose server reads nothing.

Whoever touches it waits until the end of the block, which aborts the connection: then all get ENOTCONN.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from crib.host import libc
from crib.host.mounts import unmount


@contextlib.contextmanager
def hung_mount(path: Path) -> Iterator[None]:
    """Mount it on a directory. Nobody may look at that path meanwhile but who is meant to hang."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
        libc.mount("hung", str(path), "fuse", libc.MS_NOSUID | libc.MS_NODEV, options)
        yield
    finally:
        os.close(fd)
        unmount(str(path), lazy=True)
