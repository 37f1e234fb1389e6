"""Kernel parameters of the calling thread's namespaces (sysctl(8), the files below /proc/sys)."""

from __future__ import annotations

import os
import re
from typing import Literal

_COMPONENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:@-]*[A-Za-z0-9_])?")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_NAME_LIMIT = 253
_VALUE_LIMIT = 4095

# The same families as kubelet takes for namespaced (Kubernetes, "Using sysctls in a Kubernetes Cluster").
_IPC_PREFIXES = ("kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/")
_NET_PREFIX = "net/"


def sysctl_path(name: str) -> str:
    """The path of a sysctl relative to /proc/sys; ValueError names what is wrong with the name.

    Names are written with dots or with slashes, and the first of either decides which of them separates
    (sysctl.d(5)): in `net.ipv4.conf.eth0/100.forwarding` and in `net/ipv4/conf/eth0.100/forwarding` the
    interface is `eth0.100`.
    """
    if len(name) > _NAME_LIMIT:
        raise ValueError(f"sysctl name is longer than {_NAME_LIMIT} bytes: {name[:32]!r}…")
    first = re.search(r"[./]", name)
    path = name.translate(str.maketrans("./", "/.")) if first is not None and first[0] == "." else name
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component) or ".." in component:
            raise ValueError(f"sysctl name is not valid: {name!r}")
    return path


def required_namespace(name: str) -> Literal["ipc", "net"] | None:
    """Which namespace a sysctl belongs to; None when it concerns the whole node and must be refused for a
    pod.

    `kernel.hostname` and `kernel.domainname` give None too: the pod's config sets the host name, not a
    sysctl.
    """
    path = sysctl_path(name)
    if path.startswith(_NET_PREFIX):
        return "net"
    if path.startswith(_IPC_PREFIXES):
        return "ipc"
    return None


def check_value(name: str, value: str) -> None:
    """ValueError when a sysctl's value has more than one line, control characters, or more than a page."""
    if not _VALUE.fullmatch(value) or len(value) > _VALUE_LIMIT:
        raise ValueError(f"value of sysctl {name} is not one line of printable text: {value[:64]!r}")


def write_sysctl(name: str, value: str, *, proc_sys: str = "/proc/sys") -> None:
    """Set a sysctl in the namespaces of the calling thread.

    ValueError for a name or value that is malformed; OSError with the file's path when the kernel does not
    know it here (ENOENT: also when it exists only in the host's network namespace) or refuses the value
    (EINVAL).
    """
    path = f"{proc_sys}/{sysctl_path(name)}"
    check_value(name, value)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, value.encode("ascii"))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} for the value {value!r}", path) from error
    finally:
        os.close(fd)


def read_sysctl(name: str, *, proc_sys: str = "/proc/sys") -> str:
    """The value of a sysctl in the namespaces of the calling thread, without the line end."""
    with open(f"{proc_sys}/{sysctl_path(name)}", encoding="ascii", errors="replace") as file:
        return file.read(_VALUE_LIMIT + 1).rstrip("\n")
