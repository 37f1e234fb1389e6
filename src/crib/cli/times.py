"""Times and durations as people type them for docker, kubectl and crictl."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

from crib.cli.session import CommandError
from crib.wire.crilog import parse_time

_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|[smhdw]))+")
_PART = re.compile(r"([0-9.]+)(ms|[smhdw])")
_NANOSECONDS = {
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 7 * 86400 * 10**9,
}
_UNIX = re.compile(r"[0-9]{9,11}(?:\.[0-9]{1,9})?")
"""Seconds since the epoch, as docker takes them: 9 digits are from 1973 on."""


def duration(text: str) -> int | None:
    """Nanoseconds of a duration such as 90s, 10m, 1h30m or 2d; None when it is none."""
    if not _DURATION.fullmatch(text):
        return None
    return int(sum(Decimal(number) * _NANOSECONDS[unit] for number, unit in _PART.findall(text)))


def seconds(text: str, option: str) -> float:
    """A duration, or a number of seconds, as seconds. CommandError names the option."""
    length = duration(text)
    if length is not None:
        return length / 1e9
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text):
        return float(text)
    raise CommandError(
        f"{option} {text!r} is neither a number of seconds nor a duration such as 90s or 10m", 2
    )


def moment(text: str, option: str, now_ns: int, *, nor: str = "") -> int:
    """A point in time as nanoseconds since the epoch.

    A duration is before now. A date and time without a zone is local, as docker has it. CommandError names
    the option, and in `nor` what else that would take.
    """
    length = duration(text)
    if length is not None:
        return now_ns - length
    if _UNIX.fullmatch(text):
        return int(Decimal(text) * 10**9)
    try:
        return parse_time(text.encode())
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        known = "".join(f", nor {one}" for one in ("an RFC 3339 time", nor) if one)
        raise CommandError(
            f"{option} {text!r} is neither a duration such as 90s, 10m or 2h{known}", 2
        ) from None
    since_epoch = found.astimezone(UTC) - datetime.fromtimestamp(0, UTC)
    return (since_epoch.days * 86400 + since_epoch.seconds) * 10**9 + since_epoch.microseconds * 1000
