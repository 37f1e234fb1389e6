"""Rates of the CPU from two readings of its counter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.stats import CpuUsage

SHORTEST = 100_000_000
"""Nanoseconds between two readings that give a rate; closer ones give the previous rate.

The kernel charges a running thread at ticks, 4 ms apart at the most: the rate is then right within 4 %.
"""
LONGEST = 60_000_000_000
"""Nanoseconds between two readings that give one: a mean over a longer time says nothing of now."""


Noun: TypeAlias = SandboxRecord | ContainerRecord


class CpuRates:
    """Keeps the last reading of each container and pod, until `is_gone` says of an id that it can go."""

    def __init__(self, is_gone: Callable[[str], bool]) -> None:
        self._is_gone = is_gone
        self._readings: dict[str, CpuUsage] = {}
        self._tidy_at = 64

    def lacks(self, record: Noun, now: int) -> bool:
        """Whether the next reading has none before it that gives a rate."""
        return self._before(record, now) is None

    def unripe(self, records: Iterable[Noun], now: int) -> int:
        """Nanoseconds until first readings of these are old enough for a second one."""
        firsts = (self._readings.get(record.id) for record in records)
        ages = (now - first.at for first in firsts if first is not None and first.nano_cores is None)
        return max(0, SHORTEST - min(ages, default=SHORTEST))

    def rated(self, record: Noun, cpu: CpuUsage) -> CpuUsage:
        """The reading with its rate, kept for the next one; without where it is the first, or went back."""
        before = self._before(record, cpu.at)
        if before is not None and before.nano_cores is not None and cpu.at - before.at < SHORTEST:
            return replace(cpu, nano_cores=before.nano_cores)
        rate = None
        if before is not None and cpu.at > before.at and cpu.usage >= before.usage:
            rate = (cpu.usage - before.usage) * 1_000_000_000 // (cpu.at - before.at)
        kept = self._readings[record.id] = replace(cpu, nano_cores=rate)
        self._tidy()
        return kept

    def _before(self, record: Noun, now: int) -> CpuUsage | None:
        """The counter of what is new began at 0 with it."""
        before = self._readings.get(record.id)
        if before is None and now - record.created_at <= LONGEST:
            return CpuUsage(record.created_at, 0)
        return before if before is not None and now - before.at <= LONGEST else None

    def _tidy(self) -> None:
        if len(self._readings) > self._tidy_at:
            self._readings = {key: kept for key, kept in self._readings.items() if not self._is_gone(key)}
            self._tidy_at = 2 * len(self._readings) + 64
