"""A process that gives up most system calls (seccomp(2), mode filter); no way back.

What is allowed is a list. All else says ENOSYS, as on a kernel that does not know the call: newer C libraries
than ours then fall back to older calls, which are in the list. Calls by the numbers of another architecture
(i386, x32) kill the process. Sources: linux/filter.h, linux/seccomp.h, linux/audit.h.

The tables have a name, its number on x86-64 and its number on arm64 (-: none). They hold what our confined
processes may need, and what other C libraries use instead. Numbers never change. Source: the kernel's
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
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

_COMMON = """
access 21 -, arch_prctl 158 -, brk 12 214, clock_getres 229 114, clock_gettime 228 113, clock_nanosleep 230
115, close 3 57, close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24, exit 60 93, exit_group 231 94,
faccessat 269 48, faccessat2 439 439, fadvise64 221 223, fallocate 285 47, fcntl 72 25, fdatasync 75 83, flock
73 32, fstat 5 80, fstatfs 138 44, fsync 74 82, ftruncate 77 46, futex 202 98, get_robust_list 274 100, getcpu
309 168, getcwd 79 17, getdents64 217 61, getegid 108 177, geteuid 107 175, getgid 104 176, getgroups 115 158,
getpgid 121 155, getpgrp 111 -, getpid 39 172, getppid 110 173, getpriority 140 141, getrandom 318 278,
getresgid 120 150, getresuid 118 148, getrlimit 97 163, getrusage 98 165, getsid 124 156, gettid 186 178,
gettimeofday 96 169, getuid 102 174, lseek 8 62, lstat 6 -, madvise 28 233, membarrier 324 283, memfd_create
319 279, mincore 27 232, mmap 9 222, mprotect 10 226, mremap 25 216, munmap 11 215, nanosleep 35 101,
newfstatat 262 79, open 2 -, openat 257 56, openat2 437 437, pipe 22 -, pipe2 293 59, pread64 17 67, preadv
295 69, pwrite64 18 68, pwritev 296 70, read 0 63, readlink 89 -, readlinkat 267 78, readv 19 65, rename 82 -,
renameat 264 38, renameat2 316 276, restart_syscall 219 128, rseq 334 293, rt_sigaction 13 134, rt_sigpending
127 136, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigsuspend 130 133, rt_sigtimedwait 128 137,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, sched_getaffinity 204 123, sched_getparam 143
121, sched_getscheduler 145 120, sched_yield 24 124, set_robust_list 273 99, set_tid_address 218 96,
sigaltstack 131 132, stat 4 -, statfs 137 43, statx 332 291, sync_file_range 277 84, sysinfo 99 179, time 201
-, times 100 153, umask 95 166, uname 63 160, unlink 87 -, unlinkat 263 35, utimensat 280 88, write 1 64,
writev 20 66
"""
"""Memory, threads, signals, clocks, and files that are opened by name or are open."""

_NETWORK = """
bind 49 200, connect 42 203, epoll_create1 291 20, epoll_ctl 233 21, epoll_pwait 281 22, epoll_pwait2 441 441,
epoll_wait 232 -, eventfd2 290 19, getpeername 52 205, getsockname 51 204, getsockopt 55 209, poll 7 -, ppoll
271 73, pselect6 270 72, recvfrom 45 207, recvmmsg 299 243, recvmsg 47 212, select 23 -, sendmmsg 307 269,
sendmsg 46 211, sendto 44 206, setsockopt 54 208, shutdown 48 210, timerfd_create 283 85, timerfd_settime 286
86
"""
"""An event loop, and sockets that were made."""

_TREES = """
chdir 80 49, chmod 90 -, chown 92 -, fchdir 81 50, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, fchown 93
55, fchownat 260 54, fgetxattr 193 10, flistxattr 196 13, fsetxattr 190 7, getxattr 191 8, lchown 94 -,
lgetxattr 192 9, link 86 -, linkat 265 37, listxattr 194 11, llistxattr 195 12, lsetxattr 189 6, mkdir 83 -,
mkdirat 258 34, mknod 133 -, mknodat 259 33, rmdir 84 -, setxattr 188 5, symlink 88 -, symlinkat 266 36, sync
162 81, syncfs 306 267, truncate 76 45
"""
"""Making a tree of files of other owners, and reading one."""

_JUDGED = """
clone 56 220, ioctl 16 29, prctl 157 167, prlimit64 302 261, seccomp 317 277, socket 41 198, socketpair 53
199, tgkill 234 131
"""
"""Their arguments decide."""

_COLUMNS = {"x86_64": 1, "aarch64": 2}


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = _COLUMNS.get(machine)
    rows = [row.split() for row in table.split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"} if column else {}


MACHINE = os.uname().machine
COMMON = _numbers(_COMMON, MACHINE)
NETWORK = _numbers(_NETWORK, MACHINE)
TREES = _numbers(_TREES, MACHINE)
JUDGED = _numbers(_JUDGED, MACHINE)
"""By name, on this machine; empty on one that has no column."""


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
        raise OSError(errno.EBUSY, f"thread {other} already has a different filter")


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
    """`body` is for this call, and always ends with a return."""
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
