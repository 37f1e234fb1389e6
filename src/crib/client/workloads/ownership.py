"""`fsGroup`: a pod's volumes belong to a group that all of its containers are in, as a kubelet does it."""

from __future__ import annotations

import os
import stat

_FILE, _READ_ONLY_FILE = 0o660, 0o440
_DIRECTORY = 0o110 | stat.S_ISGID
_WHOLE = _FILE | _DIRECTORY


def set_group(root: str, group: int, *, always: bool = True, read_only: bool = False) -> None:
    """Give everything below `root` to `group`, which may write unless `read_only`. No link is followed.

    Without `always` nothing is done if the root itself is right already. OSError names the path.
    """
    status = os.lstat(root)
    if not always and status.st_gid == group and status.st_mode & _WHOLE == _WHOLE:
        return
    mask = _READ_ONLY_FILE if read_only else _FILE
    # from below: whoever may not read a directory of theirs gets there by its old mode
    for parent, directories, files in os.walk(root, topdown=False):
        for name in (*directories, *files):
            _give(os.path.join(parent, name), group, mask)
    _give(root, group, mask)


def _give(path: str, group: int, mask: int) -> None:
    status = os.lstat(path)
    os.lchown(path, -1, group)
    if stat.S_ISLNK(status.st_mode):
        return  # chmod would follow it
    extra = _DIRECTORY if stat.S_ISDIR(status.st_mode) else 0
    os.chmod(path, stat.S_IMODE(status.st_mode) | mask | extra)
