"""Kubernetes quantities (`500m`, `64Mi`, `1.5`, `1e3`) and what a kubelet makes of them for a cgroup."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<number>\d{1,32}(?:\.\d{0,32})?|\.\d{1,32})"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,3}|)",
    re.ASCII,
)
_SUFFIXES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}
MAX_VALUE = 2**63 - 1
"""A quantity is kept in 64 bits, as in Kubernetes."""
PERIOD = 100_000
"""CFS period in microseconds, a kubelet's default."""
MIN_QUOTA = 1_000
"""Smallest CFS quota in microseconds that the kernel takes."""
MIN_SHARES = 2
MAX_SHARES = 262_144


def parse_quantity(value: object) -> Fraction:
    """The exact number; ValueError says what is wrong. YAML numbers count as their text, as in Kubernetes."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("must be a quantity such as 500m, 64Mi or 2")  # noqa: TRY004  # callers name the path
    text = str(value)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write for example 500m, 64Mi or 2")
    suffix = match["suffix"]
    scale = _SUFFIXES.get(suffix)
    if scale is None:
        exponent = int(suffix[1:])
        if abs(exponent) > 30:
            raise ValueError(f"{text!r} is out of range")
        scale = Fraction(10) ** exponent
    number = Fraction(match["number"]) * scale * (-1 if match["sign"] == "-" else 1)
    if number < 0:
        raise ValueError(f"{text!r} must not be negative")
    if number > MAX_VALUE:
        raise ValueError(f"{text!r} is out of range")
    return number


def milli(value: Fraction) -> int:
    """Thousandths, rounded up as Kubernetes rounds."""
    return math.ceil(value * 1000)


def whole(value: Fraction) -> int:
    """Whole units (bytes), rounded up."""
    return math.ceil(value)


def cpu_shares(milli_cpu: int) -> int:
    """The cgroup v1 weight of a CPU request (kubelet: MilliCPUToShares)."""
    return min(MAX_SHARES, max(MIN_SHARES, milli_cpu * 1024 // 1000))


def cpu_quota(milli_cpu: int) -> int:
    """The CFS quota, in microseconds of each period, of a CPU limit; 0 when there is none."""
    return max(MIN_QUOTA, milli_cpu * PERIOD // 1000) if milli_cpu else 0


def oom_score_adj(memory_request: int, memory_capacity: int, *, guaranteed: bool, best_effort: bool) -> int:
    """The OOM score that a kubelet gives a container by its pod's quality of service (node-pressure docs)."""
    if guaranteed:
        return -997
    if best_effort:
        return 1000
    score = 1000 - 1000 * memory_request // max(1, memory_capacity)
    return min(999, max(3, score))
