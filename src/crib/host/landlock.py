"""Landlock: a process that gives up the file system but for what it names (landlock(7)); no way back.

Rights that the running kernel does not know are left out, so what is refused grows with the kernel.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from crib.host import libc

_SYS_CREATE_RULESET = 444
_SYS_ADD_RULE = 445
_SYS_RESTRICT_SELF = 446
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REMOVE_FILE = 1 << 5
_MAKE_REG = 1 << 8
_TRUNCATE = 1 << 14
# How many of the file system's rights each version of the interface has.
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_FS_RIGHTS_NOW = 16
_BIND_TCP = 1 << 0
_SCOPES = 0b11
"""Abstract unix sockets and signals of others (version 6)."""

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE

_create = libc._function("syscall", ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
_add = libc._function("syscall", ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
_restrict = libc._function("syscall", ctypes.c_long, ctypes.c_int, ctypes.c_uint)


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Of the kernel's interface; 0 where there is none or it is switched off."""
    return max(int(_create(_SYS_CREATE_RULESET, None, 0, _VERSION)), 0)


def confine(readable: Iterable[str], writable: Iterable[str]) -> int:
    """From now on this thread and those it starts reach files below `readable` to read and execute, and below
    `writable` to read, make, write and remove plain files; they listen on no TCP port (kernel 6.7), and reach
    no abstract unix socket or process outside by signals (6.12).

    Descriptors that are open stay usable. Missing paths are passed over. Needs no_new_privs. Returns the
    interface's version, 0 when the kernel has none and nothing was done; OSError when it refuses.
    """
    found = version()
    if not found:
        return 0
    rights = (1 << _FS_RIGHTS.get(found, _FS_RIGHTS_NOW)) - 1
    ruleset = _Ruleset(rights, _BIND_TCP if found >= 4 else 0, _SCOPES if found >= 6 else 0)
    # An older kernel takes a longer structure when what it does not know is zero.
    fd: int = libc._checked(
        _create(_SYS_CREATE_RULESET, ctypes.addressof(ruleset), ctypes.sizeof(ruleset), 0)
    )
    try:
        for allowed, paths in ((_READ, readable), (_WRITE, writable)):
            for path in paths:
                _allow(fd, path, allowed & rights)
        libc._checked(_restrict(_SYS_RESTRICT_SELF, fd, 0))
    finally:
        os.close(fd)
    return found


def _allow(ruleset: int, path: str, allowed: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not os.path.isdir(f"/proc/self/fd/{parent}"):
            allowed &= _FILE_ONLY
        rule = _PathBeneath(allowed, parent)
        libc._checked(_add(_SYS_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0), path)
    finally:
        os.close(parent)
