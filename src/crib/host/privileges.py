"""Giving up what a process that reads hostile input must not have; there is no way back.

And capabilities (capabilities(7)): their names, and which of them this process may still have.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from crib.host import libc

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63

_ulong = ctypes.c_ulong
_prctl = libc._function("prctl", ctypes.c_int, _ulong, _ulong, _ulong, _ulong)


def drop_privileges(uid: int, gid: int) -> None:
    """Become `uid` and `gid` without groups, without any capability, and never get new ones by exec.

    For the whole process, which must not have started a thread yet. A process that is not root keeps its
    user and still loses the rest. OSError when anything that matters is refused.
    """
    if os.geteuid() == 0:
        for capability in range(_LAST_CAPABILITY + 1):
            if _prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
                _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        # Leaving uid 0 clears the permitted, effective and ambient sets (capabilities(7)).
        os.setresuid(uid, uid, uid)
        if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
            raise OSError(1, f"cannot become user {uid}")
    _checked(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear the ambient capabilities")
    _checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends; at once when `parent` is gone already.

    Call it after `drop_privileges`: the kernel forgets it when the user changes.
    """
    _checked(_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "set the parent death signal")
    if os.getppid() != parent:
        raise ProcessLookupError(3, f"parent {parent} is gone")


def limit(descriptors: int, memory: int = 0) -> None:
    """No core dumps, at most so many open descriptors, and at most so many bytes of memory more than now.

    Memory is what setrlimit(2) RLIMIT_DATA counts: private writable mappings, touched or not; 0 sets none.
    What goes beyond fails with ENOMEM.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, descriptors)
    if memory:
        _lower(resource.RLIMIT_DATA, _data_size() + memory)


def _lower(what: int, bound: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(what, (bound, bound))


def _data_size() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        line = next(line for line in file if line.startswith("VmData:"))
    return int(line.split()[1]) << 10


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")


CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *(
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
    ),
    *(
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
    ),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL"),
    *("SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ"),
    *("PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
"""By number, without `CAP_` (linux/capability.h)."""


def bounding_set(status: str = "/proc/self/status") -> tuple[str, ...]:
    """`CAP_…` names that this process and its children can have at most (proc(5), CapBnd)."""
    with open(status, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapBnd:"):
                bits = int(line.split()[1], 16)
                return tuple(f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if bits >> number & 1)
    return ()
