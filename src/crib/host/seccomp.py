"""A process that gives up most system calls (seccomp(2), mode filter); no way back.

What is allowed is a list. All else says ENOSYS, as on a kernel that does not know the call: newer C libraries
than ours then fall back to older calls, which are in the list. Calls by the numbers of another architecture
(i386, x32) kill the process. Sources: linux/filter.h, linux/seccomp.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import termios
from collections.abc import Iterable, Sequence

from crib.host import libc
from crib.host.system_calls import COMMON, JUDGED, MACHINE

_AUDIT_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x4000_0000
_SET_MODE_FILTER = 1
_GET_ACTION_AVAIL = 2
_FLAG_TSYNC = 1

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15
_IF_AT_LEAST = 0x35
_IF_ANY_BIT = 0x45
_RETURN = 0x06
_INSTRUCTION = struct.Struct("=HBBI")
# struct seccomp_data, whose 64-bit arguments have their lower half first on both machines.
_NUMBER = 0
_ARCH = 4
_ARGUMENTS = 16

_KILL = 0x8000_0000
_ERRNO = 0x0005_0000
_ALLOW = 0x7FFF_0000

_CLONE_THREAD = 0x0001_0000
_CLONE_NEW = 0x7E02_0080
"""CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}."""
_PRCTLS = (15, 16, 0x53564D41)
"""PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and of memory."""
_FIONBIO, _FIONCLEX, _FIOCLEX = 0x5421, 0x5450, 0x5451
_IOCTLS = (_FIONBIO, termios.FIONREAD, _FIONCLEX, _FIOCLEX, termios.TCGETS)
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
_PROTOCOLS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)

_Code = list[bytes]

_seccomp = libc._function("syscall", ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def unavailable() -> str:
    """Why no filter can be set here; empty when one can."""
    if MACHINE not in _AUDIT_ARCHES:
        return f"there is no list of system calls for {MACHINE}"
    action = ctypes.c_uint32(_KILL)
    if _seccomp(JUDGED["seccomp"], _GET_ACTION_AVAIL, 0, ctypes.addressof(action)) < 0:
        return f"this kernel has no seccomp filters ({os.strerror(ctypes.get_errno())})"
    return ""


def confine(*allowed: Iterable[int], sockets: bool) -> None:
    """From now on all threads have the calls of COMMON and those numbers only, and with `sockets` may make
    sockets of TCP, UDP and unix. No program can be started and no process made.

    Needs no_new_privs. Nothing is done where it is `unavailable`; OSError when the kernel refuses.
    """
    if unavailable():
        return
    code = _filter([*COMMON.values(), *(number for one in allowed for number in one)], sockets=sockets)
    buffer = ctypes.create_string_buffer(b"".join(code))
    program = _Program(len(code), ctypes.addressof(buffer))
    other = _seccomp(JUDGED["seccomp"], _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.addressof(program))
    if libc._checked(other):
        raise OSError(errno.EBUSY, f"thread {other} has a filter of its own")


def _filter(allowed: Sequence[int], *, sockets: bool) -> _Code:
    code = [*_load(_ARCH), _step(_IF_EQUAL, _AUDIT_ARCHES[MACHINE], 1, 0), _return(_KILL), *_load(_NUMBER)]
    if MACHINE == "x86_64":
        code += [_step(_IF_AT_LEAST, _X32_BIT, 0, 1), _return(_KILL)]
    for number in sorted(set(allowed)):
        code += [_step(_IF_EQUAL, number, 0, 1), _return(_ALLOW)]
    threads = [*_load_argument(0), _step(_IF_ANY_BIT, _CLONE_NEW, 2, 0)]
    threads += [_step(_IF_ANY_BIT, _CLONE_THREAD, 0, 1), _return(_ALLOW), _return(_ERRNO | errno.EPERM)]
    code += _for_call("clone", threads)
    code += _for_call("prctl", _only(0, _PRCTLS, errno.EPERM))
    code += _for_call("ioctl", _only(1, _IOCTLS, errno.ENOTTY))
    # To ask for limits, not to set them.
    code += _for_call("prlimit64", _only(2, (0,), errno.EPERM, high=True))
    code += _for_call("tgkill", _only(0, (os.getpid(),), errno.EPERM))
    if sockets:
        refusals = _unless(0, _FAMILIES, errno.EAFNOSUPPORT) + _unless(2, _PROTOCOLS, errno.EPROTONOSUPPORT)
        code += _for_call("socket", [*refusals, _return(_ALLOW)])
        code += _for_call("socketpair", _only(0, (socket.AF_UNIX,), errno.EAFNOSUPPORT))
    return [*code, _return(_ERRNO | errno.ENOSYS)]


def _step(operation: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    """One instruction; how many are to be passed over."""
    return _INSTRUCTION.pack(operation, if_so, if_not, value)


def _return(action: int) -> bytes:
    return _step(_RETURN, action)


def _load(offset: int) -> _Code:
    return [_step(_LOAD, offset)]


def _load_argument(index: int, *, high: bool = False) -> _Code:
    return _load(_ARGUMENTS + 8 * index + 4 * high)


def _for_call(name: str, body: _Code) -> _Code:
    """`body` is for this call, and comes to an end of its own."""
    return [_step(_IF_EQUAL, JUDGED[name], 0, len(body)), *body]


def _unless(index: int, values: Sequence[int], number: int, *, high: bool = False) -> _Code:
    """Refuse with this errno unless an argument is one of the values; the upper half counts with `high`."""
    code = [*_load_argument(index)]
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        code.append(_step(_IF_EQUAL, value, left, 0))
    code.append(_return(_ERRNO | number))
    if high:
        code += [*_load_argument(index, high=True), _step(_IF_EQUAL, 0, 1, 0), _return(_ERRNO | number)]
    return code


def _only(index: int, values: Sequence[int], number: int, *, high: bool = False) -> _Code:
    return [*_unless(index, values, number, high=high), _return(_ALLOW)]
