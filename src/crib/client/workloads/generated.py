"""Files of ConfigMaps, Secrets and the like in a directory, in the layout that a kubelet makes.

The files are in a directory with the time in its name. `..data` links to it, and a link for each name leads
through `..data`, so that programs which watch for changes find what they look for.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.manifest.plan import VolumeFile

DATA_LINK = "..data"
SPARE_BYTES = 1 << 20
"""Beyond the files themselves, for a file system in memory that holds them."""
_PAGE = 4096
_DIRECTORY = 0o755


def size_in_memory(files: Sequence[VolumeFile]) -> int:
    """Bytes for a tmpfs with these files: every file takes whole pages."""
    return SPARE_BYTES + sum(len(file.content) + 2 * _PAGE for file in files)


def write_files(directory: str, files: Sequence[VolumeFile]) -> None:
    """Write the files into an empty directory. OSError names the path."""
    stamp = time.strftime("..%Y_%m_%d_%H_%M_%S", time.gmtime()) + f".{time.time_ns() % 10**9:09}"
    inside = os.path.join(directory, stamp)
    os.mkdir(inside)
    os.chmod(inside, _DIRECTORY)  # whatever the umask
    for file in files:
        path = os.path.join(inside, file.path)
        _make_parents(inside, file.path)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(file.content)
            os.fchmod(descriptor, file.mode)
    os.symlink(stamp, os.path.join(directory, DATA_LINK))
    for name in sorted({file.path.split("/")[0] for file in files}):
        os.symlink(f"{DATA_LINK}/{name}", os.path.join(directory, name))


def _make_parents(directory: str, path: str) -> None:
    for name in path.split("/")[:-1]:
        directory = os.path.join(directory, name)
        if not os.path.isdir(directory):
            os.mkdir(directory)
            os.chmod(directory, _DIRECTORY)


def read_files(directory: str) -> dict[str, bytes]:
    """What is in such a directory by path; empty when it is not there."""
    root = os.path.join(directory, DATA_LINK)
    found: dict[str, bytes] = {}
    for parent, _, names in os.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found
