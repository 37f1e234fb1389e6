"""Rates of the CPU from two readings of its counter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.stats import CgroupUsage

SHORTEST = 100_000_000
"""Nanoseconds between two readings that give a rate; closer ones give the previous rate.

The kernel charges a running thread at ticks, 4 ms apart at the most: the rate is then right within 4 %.
"""
LONGEST = 60_000_000_000
"""Nanoseconds between two readings that give one: a mean over a longer time says nothing of now."""

Noun: TypeAlias = SandboxRecord | ContainerRecord


class _Reading(NamedTuple):
    """When it was, the counter then, and the rate that it gave."""

    at: int
    usage: int
    rate: int | None


class CpuRates:
    """Keeps the last reading of each container and pod, until `is_gone` says of an id that it can go."""

    def __init__(self, is_gone: Callable[[str], bool]) -> None:
        self._is_gone = is_gone
        self._readings: dict[str, _Reading] = {}
        self._tidy_at = 64

    def lacks(self, record: Noun, now: int) -> bool:
        """Whether the next reading has none before it that gives a rate."""
        return self._before(record, now) is None

    def unripe(self, records: Iterable[Noun], now: int) -> int:
        """Nanoseconds until first readings of these are old enough for a second one."""
        firsts = (self._readings.get(record.id) for record in records)
        ages = (now - first.at for first in firsts if first is not None and first.rate is None)
        return max(0, SHORTEST - min(ages, default=SHORTEST))

    def rate(self, record: Noun, usage: CgroupUsage) -> int | None:
        """The rate that this reading gives, in core-ns a second; it is kept for the next one.

        None for a first one, for a counter that went back, and where there is no counter.
        """
        cpu = usage.cpu
        if cpu is None:
            return None
        before = self._before(record, cpu.at)
        if before is not None and before.rate is not None and cpu.at - before.at < SHORTEST:
            return before.rate
        rate = None
        if before is not None and cpu.at > before.at and cpu.usage >= before.usage:
            rate = (cpu.usage - before.usage) * 1_000_000_000 // (cpu.at - before.at)
        self._readings[record.id] = _Reading(cpu.at, cpu.usage, rate)
        self._tidy()
        return rate

    def _before(self, record: Noun, now: int) -> _Reading | None:
        """The counter of what is new began at 0 with it."""
        before = self._readings.get(record.id)
        if before is None and now - record.created_at <= LONGEST:
            return _Reading(record.created_at, 0, None)
        return before if before is not None and now - before.at <= LONGEST else None

    def _tidy(self) -> None:
        if len(self._readings) > self._tidy_at:
            self._readings = {key: kept for key, kept in self._readings.items() if not self._is_gone(key)}
            self._tidy_at = 2 * len(self._readings) + 64
