"""A process that stays root to make files of other owners, and can reach nothing but one directory.

For a process that has started no thread; there is no way back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

from crib.host import libc, privileges
from crib.host.privileges import CAPABILITIES

_VERSION_3 = 0x20080522
_int, _ulong, _ptr = ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63

_prctl = libc._function("prctl", _int, _ulong, _ulong, _ulong, _ulong)
_capset = libc._function("capset", _ptr, _ptr)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", _int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def confine(root_fd: int, keep: Collection[str], parent: int) -> None:
    """Make the directory `root_fd` the root and keep only the capabilities `keep` (names without `CAP_`).

    One that the process may not have is done without. Groups go, no exec gives anything back, and the
    process is killed when `parent`, who started it, ends. Whatever is to be imported must be by now. OSError
    when anything is refused.
    """
    wanted = {CAPABILITIES.index(name) for name in keep}
    numbers = {number for number in wanted if _prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1}
    os.fchdir(root_fd)
    os.chroot(".")
    os.setgroups([])
    for capability in range(_LAST_CAPABILITY + 1):
        held = _prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1
        if held and capability not in numbers:
            _done(_prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "drop a capability")
    _done(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear the ambient capabilities")
    sets = (_Sets * 2)()
    for number in numbers:
        sets[number // 32].effective |= 1 << number % 32
        sets[number // 32].permitted |= 1 << number % 32
    header = _Header(_VERSION_3, 0)
    _done(_capset(ctypes.addressof(header), ctypes.addressof(sets)), "give up capabilities")
    _done(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    privileges.die_with_parent(parent)


def _done(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")
