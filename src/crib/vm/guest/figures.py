"""The guest's own figures: memory, CPUs, clocks; and its end."""

from __future__ import annotations

import os
import time

from crib.vm.guest import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MEMORY = "/sys/devices/system/memory"
_CPUS = "/sys/devices/system/cpu"


def uptime() -> int:
    """Nanoseconds since the kernel's start."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def agent_version() -> str:
    """This package's."""
    from crib import __version__

    return __version__


def memory(*, online: bool) -> dict[str, Any]:
    """The answer of Memory; with `online` blocks that are there and not used are taken."""
    if online:
        kernel.load("virtio_mem", "virtio_balloon")
        for name in _listed(_MEMORY, "memory"):
            _take(f"{_MEMORY}/{name}/state", "offline", "online")
    found = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
    return {
        "total": found["MemTotal"],
        "available": found["MemAvailable"],
        "free": found["MemFree"],
        "agent": _resident("1") + (_resident("self") if os.getpid() != 1 else 0),
    }


def cpus(*, online: bool) -> dict[str, Any]:
    """The answer of Cpus; with `online` CPUs that are there and not used are taken."""
    names = _listed(_CPUS, "cpu")
    if online:
        for name in names:
            _take(f"{_CPUS}/{name}/online", "0", "1")
    return {"present": len(names), "online": os.sysconf("SC_NPROCESSORS_ONLN")}


def power_off() -> dict[str, Any]:
    """Sync, and end the guest. All processes end with it."""
    os.sync()
    kernel.power_off()
    return {}


def _listed(directory: str, prefix: str) -> list[str]:
    names = os.listdir(directory)
    return sorted(name for name in names if name.startswith(prefix) and name[len(prefix) :].isdigit())


def _take(path: str, from_value: str, to_value: str) -> None:
    try:
        with open(path, "r+") as file:
            if file.read().strip() == from_value:
                file.write(to_value)
    except FileNotFoundError:
        pass  # the first CPU cannot be taken off, and has no such file


def _resident(process: str) -> int:
    """Bytes that are this process's own."""
    with open(f"/proc/{process}/status") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
