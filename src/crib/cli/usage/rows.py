"""The rows of `crib top`: rates from two readings, what is shown of them, and in which order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from crib.cli.usage_options import Layout, Sort
from crib.client.usage import NO_PRESSURE, PressureShares, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from crib.client.usage import RunningCount, Usage, UsageReading


@dataclass(frozen=True, slots=True)
class UsageFigures:
    """What is shown of one pod or container. None: the runtime did not tell."""

    cpu: float | None = None
    """Cores."""
    memory: int | None = None
    memory_limit: int | None = None
    swap: int | None = None
    processes: int | None = None
    disk: int | None = None
    read: float | None = None
    written: float | None = None
    received: float | None = None
    sent: float | None = None
    pressure: PressureShares = NO_PRESSURE

    @property
    def memory_share(self) -> float | None:
        """Percent of the limit."""
        if self.memory is None or not self.memory_limit:
            return None
        return 100 * self.memory / self.memory_limit


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One pod, or one container of it."""

    id: str
    pod: str
    """NAMESPACE/NAME."""
    container: str
    """Empty for the pod itself."""
    figures: UsageFigures
    containers: tuple[UsageRow, ...] = ()
    """Of a pod."""

    @property
    def name(self) -> str:
        return f"{self.pod}/{self.container}" if self.container else self.pod


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person chose to see."""

    layout: Layout = Layout.TREE
    sort: Sort = Sort.CPU
    reverse: bool = False
    text: str = ""
    """Words that a row has to have in its name, or as the beginning of its id."""


class Meter:
    """Turns readings into rows; a rate is from the last reading to this one."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[Usage, UsageFigures]] = {}

    def rows(self, reading: UsageReading) -> tuple[UsageRow, ...]:
        """A row for each pod, which has those of its containers."""
        known: dict[str, tuple[Usage, UsageFigures]] = {}

        def figures(key: str, usage: Usage) -> UsageFigures:
            known[key] = (usage, _figures(self._before.get(key), usage))
            return known[key][1]

        rows = tuple(
            UsageRow(
                pod.id,
                label,
                "",
                figures(pod.id, pod.usage),
                tuple(
                    UsageRow(one.id, label, one.name, figures(one.id, one.usage)) for one in pod.containers
                ),
            )
            for pod in reading.pods
            for label in (f"{pod.namespace}/{pod.name}",)
        )
        self._before = known
        return rows


def _figures(last: tuple[Usage, UsageFigures] | None, usage: Usage) -> UsageFigures:
    before, shown = last or (None, UsageFigures())

    def per_second(of: Callable[[Usage], RunningCount | None], kept: float | None) -> float | None:
        if before is None:
            return None
        if of(before) == of(usage):
            return kept  # the runtime has not looked again
        return rate(of(before), of(usage))

    cpu = per_second(lambda one: one.cpu, None if shown.cpu is None else shown.cpu * 1e9)
    if cpu is None and usage.nano_cores is not None:
        cpu = usage.nano_cores
    return UsageFigures(
        cpu=None if cpu is None else cpu / 1e9,
        memory=usage.memory,
        memory_limit=usage.memory_limit,
        swap=usage.swap,
        processes=usage.processes,
        disk=usage.disk,
        read=per_second(lambda one: one.read, shown.read),
        written=per_second(lambda one: one.written, shown.written),
        received=per_second(lambda one: one.received, shown.received),
        sent=per_second(lambda one: one.sent, shown.sent),
        pressure=usage.pressure,
    )


def arrange(rows: Sequence[UsageRow], shown: Shown) -> list[UsageRow]:
    """The rows to show, in their order. In a tree each pod is followed by its containers."""
    words = shown.text.lower().split()
    kept = [row for row in (_matching(row, words) for row in rows) if row is not None]
    if shown.layout is Layout.CONTAINERS:
        return _sorted([one for row in kept for one in row.containers], shown)
    pods = _sorted(kept, shown)
    if shown.layout is Layout.PODS:
        return pods
    return [line for pod in pods for line in (pod, *_sorted(pod.containers, shown))]


def _matching(pod: UsageRow, words: Sequence[str]) -> UsageRow | None:
    """The pod with those of its containers that fit; with all of them when it fits itself."""
    if _fits(pod, words):
        return pod
    fitting = tuple(one for one in pod.containers if _fits(one, words))
    return replace(pod, containers=fitting) if fitting else None


def _fits(row: UsageRow, words: Sequence[str]) -> bool:
    name = row.name.lower()
    return all(word in name or row.id.startswith(word) for word in words)


_ORDERS: Mapping[Sort, Callable[[UsageFigures], float | None]] = {
    Sort.CPU: lambda one: one.cpu,
    Sort.MEMORY: lambda one: one.memory,
    Sort.IO: lambda one: _sum(one.read, one.written),
    Sort.NETWORK: lambda one: _sum(one.received, one.sent),
    Sort.PRESSURE: lambda one: worst(one.pressure),
    Sort.DISK: lambda one: one.disk,
    Sort.PIDS: lambda one: one.processes,
}


def _sorted(rows: Iterable[UsageRow], shown: Shown) -> list[UsageRow]:
    """What is not known comes last, either way."""
    by_name = sorted(rows, key=lambda row: (row.name, row.id))
    if shown.sort is Sort.NAME:
        return by_name[::-1] if shown.reverse else by_name
    order = _ORDERS[shown.sort]
    sign = 1 if shown.reverse else -1

    def key(row: UsageRow) -> tuple[bool, float]:
        value = order(row.figures)
        return value is None, 0 if value is None else sign * value

    return sorted(by_name, key=key)


def worst(pressure: PressureShares) -> float | None:
    """The largest of what is known."""
    return max((v for v in (pressure.cpu, pressure.memory, pressure.io) if v is not None), default=None)


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def as_document(at: int, seconds: float, rows: Iterable[UsageRow]) -> dict[str, Any]:
    """What `--output json` shows: `at` in nanoseconds since the epoch, null for what is not known."""
    pods = [
        {
            "id": pod.id,
            "namespace": pod.pod.partition("/")[0],
            "name": pod.pod.partition("/")[2],
            **_document(pod.figures),
            "containers": [
                {"id": one.id, "name": one.container, **_document(one.figures)} for one in pod.containers
            ],
        }
        for pod in rows
    ]
    return {"timestamp": at, "seconds": round(seconds, 3), "pods": pods}


def _document(figures: UsageFigures) -> dict[str, Any]:
    pressure = figures.pressure
    return {
        "cpuCores": None if figures.cpu is None else round(figures.cpu, 6),
        "memoryBytes": figures.memory,
        "memoryLimitBytes": figures.memory_limit,
        "swapBytes": figures.swap,
        "processes": figures.processes,
        "writableLayerBytes": figures.disk,
        "readBytesPerSecond": _rounded(figures.read),
        "writtenBytesPerSecond": _rounded(figures.written),
        "receivedBytesPerSecond": _rounded(figures.received),
        "sentBytesPerSecond": _rounded(figures.sent),
        "pressurePercent": {"cpu": pressure.cpu, "memory": pressure.memory, "io": pressure.io},
    }


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
