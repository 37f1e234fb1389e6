"""The system calls that Python's library lacks. Errors are OSError with the kernel's number and the path."""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_SHARED = 1 << 20
MNT_DETACH = 2
CLONE_NEWPID = 0x20000000
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NAME = 15
_RB_POWER_OFF = 0x4321FEDC
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}

_libc = ctypes.CDLL(None, use_errno=True)
_long = ctypes.c_ulong


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _done(_libc.mount(source.encode(), target.encode(), kind.encode(), _long(flags), data.encode()), target)


def unmount(target: str) -> None:
    """umount2(2), at once: what still uses it keeps it until it ends."""
    _done(_libc.umount2(target.encode(), MNT_DETACH), target)


def load_module(path: str) -> None:
    """finit_module(2); a module that is there already is no error."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _done(_libc.syscall(_FINIT_MODULE[os.uname().machine], descriptor, b"", 0), path)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)


def adopt_orphans() -> None:
    """Descendants whose parent has ended become this process's children (prctl(2))."""
    _done(_libc.prctl(_PR_SET_CHILD_SUBREAPER, _long(1), _long(0), _long(0), _long(0)), "")


def set_name(name: str) -> None:
    """What lists of processes call this one (prctl(2))."""
    _done(_libc.prctl(_PR_SET_NAME, name.encode(), _long(0), _long(0), _long(0)), "")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _done(_libc.unshare(flags), "")


def power_off() -> None:
    """reboot(2) with the power off. Does not return where it is allowed."""
    _done(_libc.reboot(ctypes.c_int(_RB_POWER_OFF)), "")


def _done(result: int, path: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)


def module(name: str) -> str:
    """Where the guest has a module of the kernel."""
    return f"/usr/lib/modules/{name}.ko"


def load(*names: str) -> None:
    """Load modules, in this order; those that the image has not are built into the kernel."""
    for name in names:
        try:
            load_module(module(name))
        except FileNotFoundError:
            pass
