"""Limits as systemd has them: properties of a scope or slice, and annotations by which a runtime sets them.

systemd writes what it holds for a unit into the files of its cgroup whenever it reloads, or another property
of the unit changes, and a limit that it does not know is gone then. So it gets each one that it has a
property for (systemd.resource-control(5); signatures: org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Property = tuple[str, ...]
"""Name, D-Bus signature, and the words of the value as busctl(1) takes them."""

_PREFIX = "org.systemd.property."
OOM_POLICY = 253
"""The first systemd whose scopes have one."""
OOM_GROUP = "memory.oom.group"
_INFINITY = (1 << 64) - 1
"""What these properties have for "no limit"."""
_NUMBERS = {
    "cpu.shares": "CPUShares",
    "cpu.weight": "CPUWeight",
    "io.weight": "IOWeight",
    "memory.high": "MemoryHigh",
    "memory.limit_in_bytes": "MemoryLimit",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
_DEFAULT_PERIOD = 100_000
"""Microseconds: the kernel's own."""
_PERCENT = 10_000
"""Microseconds of a second. systemd keeps a quota as whole percents of a CPU, so parts are rounded up."""
_NUMBER = re.compile(r"(?:default )?([0-9]{1,20})([kmgt]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_CPU_MAX = re.compile(r"(max|[0-9]{1,20})(?: ([0-9]{1,20}))?")
_SET = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")


def unit_properties(files: Iterable[tuple[str, str]]) -> tuple[Property, ...]:
    """What stands for these files of a cgroup and their content (`limits.limit_files`).

    A file that systemd has no property for is left out: systemd does not write it. So are `io.max`, for
    which properties name devices by their paths, and content that the kernel will refuse.
    """
    contents = {key: value.strip() for key, value in files}
    found: dict[str, tuple[str, ...]] = {}
    for key, name in _NUMBERS.items():
        number = _number(contents.get(key, ""))
        if number is not None:
            found[name] = ("t", str(number))
    if contents.get("cpu.idle") == "1":
        found["CPUWeight"] = ("t", "0")  # CPUWeight=idle
    for name, number in _quota(contents).items():
        found[name] = ("t", str(number))
    for key, name in _SETS.items():
        if octets := _octets(contents.get(key, "")):
            found[name] = ("ay", str(len(octets)), *map(str, octets))
    return tuple((name, *value) for name, value in found.items())


def unit_annotations(properties: Iterable[Property]) -> dict[str, str]:
    """Annotations by which a runtime makes a scope with them: of those that are numbers, the only ones that
    every runtime takes.
    """
    numbers = (words for words in properties if words[1] == "t")
    return {f"{_PREFIX}{name}": f"uint64 {value}" for name, _, value in numbers}


def scope_policy(files: Iterable[tuple[str, str]], systemd: int) -> dict[str, str]:
    """`memory.oom.group` as an annotation: a property of a scope that can be set only when it is made.

    systemd 253 and later write the file by it whenever another property changes. A scope that has been killed
    so counts as failed, and would stay.
    """
    if systemd < OOM_POLICY or dict(files).get(OOM_GROUP, "").strip() != "1":
        return {}
    return {f"{_PREFIX}OOMPolicy": "'kill'", f"{_PREFIX}CollectMode": "'inactive-or-failed'"}


def _number(text: str) -> int | None:
    if text == "max":
        return _INFINITY
    if text.startswith("-"):
        return _INFINITY  # cgroup v1
    match = _NUMBER.fullmatch(text)
    return int(match[1]) * _UNITS[match[2].lower()] if match else None


def _quota(contents: Mapping[str, str]) -> dict[str, int]:
    """Of version 2, else of version 1."""
    words = contents.get("cpu.max", "")
    if not words and (quota := contents.get("cpu.cfs_quota_us")):
        period_v1 = contents.get("cpu.cfs_period_us", str(_DEFAULT_PERIOD))
        words = f"{'max' if quota.startswith('-') else quota} {period_v1}"
    match = _CPU_MAX.fullmatch(words)
    if match is None:
        return {}
    period = int(match[2] or _DEFAULT_PERIOD)
    if match[1] == "max" or not period:
        second = _INFINITY
    else:
        second = -(-int(match[1]) * 1_000_000 // (period * _PERCENT)) * _PERCENT
    return {"CPUQuotaPerSecUSec": second, "CPUQuotaPeriodUSec": period}


def _octets(text: str) -> tuple[int, ...]:
    """The numbers of a list such as `0-2,5` as bits, the lowest first."""
    if not _SET.fullmatch(text):
        return ()
    bits = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return tuple(bits.to_bytes((bits.bit_length() + 7) // 8, "little"))
