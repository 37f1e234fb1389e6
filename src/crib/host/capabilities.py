"""Capabilities (capabilities(7)): their names, and which of them this process may still have."""

from __future__ import annotations

NAMES = (
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
                return tuple(f"CAP_{name}" for number, name in enumerate(NAMES) if bits >> number & 1)
    return ()
