"""The system calls that Python's library lacks. Errors are OSError with the kernel's number and the path."""

from __future__ import annotations

import _ctypes
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
WANTED = "/usr/lib/modules/wanted"
"""Names of modules that `crib vm build --module` was asked for, and those that they need before them."""
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NAME = 15
_RB_POWER_OFF = 0x4321FEDC
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # it takes none at run time
    _type_ = "i"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    """What ctypes makes of a C function; all of ctypes takes five times as long to import."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_LIBC = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is the program itself


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _done(
        _call("mount", source.encode(), target.encode(), kind.encode(), _Long(flags), data.encode()), target
    )


def unmount(target: str) -> None:
    """umount2(2), at once: what still uses it keeps it until it ends."""
    _done(_call("umount2", target.encode(), MNT_DETACH), target)


def load_module(path: str) -> None:
    """finit_module(2); a module that is there already is no error."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _done(_call("syscall", _FINIT_MODULE[os.uname().machine], descriptor, b"", 0), path)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)


def adopt_orphans() -> None:
    """Descendants whose parent has ended become this process's children (prctl(2))."""
    _done(_call("prctl", _PR_SET_CHILD_SUBREAPER, _Long(1), _Long(0), _Long(0), _Long(0)), "")


def set_name(name: str) -> None:
    """What lists of processes call this one (prctl(2))."""
    _done(_call("prctl", _PR_SET_NAME, name.encode(), _Long(0), _Long(0), _Long(0)), "")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _done(_call("unshare", flags), "")


def power_off() -> None:
    """reboot(2) with the power off. Does not return where it is allowed."""
    _done(_call("reboot", _RB_POWER_OFF), "")


def open_in_root(top: int, path: str) -> int:
    """A descriptor to read from, where `top` is the root for every link (openat2(2)). Never waits."""
    how = b"".join(part.to_bytes(8, "little") for part in (_OPEN_FLAGS, 0, _RESOLVE_IN_ROOT))
    result = _call("syscall", _OPENAT2, top, path.encode(), how, _Long(len(how)))
    _done(result, path)
    return result


def _call(name: str, *arguments: object) -> int:
    result: int = _Function(_ctypes.dlsym(_LIBC, name))(*arguments)
    return result


def _done(result: int, path: str) -> None:
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)


def module(name: str) -> str:
    """Where the guest has a module of the kernel."""
    return f"/usr/lib/modules/{name}.ko"


def load_wanted() -> None:
    """What the image was built to have beside what every guest needs, in the order that it needs."""
    try:
        with open(WANTED) as file:
            names = file.read().split()
    except FileNotFoundError:
        return
    load(*names)


def load(*names: str) -> None:
    """Load modules, in this order; those that the image has not are built into the kernel."""
    for name in names:
        try:
            load_module(module(name))
        except FileNotFoundError:
            pass
