"""Usage of containers and pods, read at the moment of the question.

Nothing is read in the background. A CPU rate needs two readings. The earlier one is that of the last
question, unless it is too old. A new container's counter began at 0, which serves as the earlier one. For the
rest, two readings are taken close to each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from crib.engine.core import Core
from crib.engine.cpu_rates import CpuRates, Noun
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError, NotFound
from crib.model.ids import SandboxId
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.model.stats import CgroupUsage, ContainerUsage, NetworkUsage, PodUsage
from crib.ports.statistics import Statistics

BATCH = 50
"""Pods, or containers, that are read in one go: some milliseconds. Then it is other calls' turn."""

T = TypeVar("T")


class ContainerFigures(NamedTuple):
    """A container's usage."""

    container: ContainerRecord
    usage: ContainerUsage
    nano_cores: int | None = None
    """Core-nanoseconds a second over a recent time."""


class PodFigures(NamedTuple):
    """A pod's usage and its containers'."""

    sandbox: SandboxRecord
    usage: PodUsage
    nano_cores: int | None = None
    """As a container's."""
    containers: tuple[ContainerFigures, ...] = ()


class Stats:
    """Reads figures through the ports, in batches.

    `whole` figures have what only the CRI metrics tell, and no rates, which metrics do not have: two readings
    of the statistics give a rate, whoever asks for metrics in between.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rates = CpuRates(lambda key: not (core.sandboxes.get(key) or core.containers.get(key)))

    async def container(self, text: str) -> ContainerFigures:
        """Of one, in whatever state it is."""
        record = self._core.container(text)
        await self._take_first_readings((record,) if _is_living(record) else ())
        found = await self._containers((record,), whole=False)
        if not found:
            raise NotFound(f"there is no container {text!r} any more")
        return found[0]

    async def pod(self, text: str) -> PodFigures:
        """Of one, in whatever state it is."""
        record = self._core.sandbox(text)
        if _is_ready(record):
            await self._take_first_readings((record, *self._living(record)))
        (figures,) = await self._pods((record,), whole=False)
        return figures

    async def containers(
        self, records: Iterable[ContainerRecord], *, whole: bool = False
    ) -> AsyncIterator[Sequence[ContainerFigures]]:
        """Of those that run or wait to be started, in batches; one that goes away meanwhile is left out."""
        living = [record for record in records if _is_living(record)]
        await self._take_first_readings(living)
        for batch in _batches(living):
            found = await self._containers(batch, whole=whole)
            yield [each for each in found if _is_living(self._core.containers.get(each.container.id))]

    async def pods(
        self, records: Iterable[SandboxRecord], *, whole: bool = False
    ) -> AsyncIterator[Sequence[PodFigures]]:
        """Of those that are ready, in batches; one that goes away meanwhile is left out."""
        ready = [record for record in records if _is_ready(record)]
        if not whole:  # metrics have counters only, and no rates
            await self._take_first_readings([*ready, *(each for pod in ready for each in self._living(pod))])
        for batch in _batches(ready):
            found = await self._pods(batch, whole=whole)
            yield [each for each in found if _is_ready(self._core.sandboxes.get(each.sandbox.id))]

    def _living(self, pod: SandboxRecord) -> list[ContainerRecord]:
        return [record for record in self._core.containers_of(pod.id) if _is_living(record)]

    async def _take_first_readings(self, records: Sequence[Noun]) -> None:
        """Of those without one for a rate; then wait until a second one gives a rate."""
        now = self._core.clock()
        lacking = [record for record in records if self._rates.lacks(record, now)]
        for batch in _batches(lacking):
            pods = [record for record in batch if isinstance(record, SandboxRecord)]
            containers = [record for record in batch if isinstance(record, ContainerRecord)]
            usages = await self._pod_usages(pods, whole=False)
            for pod in pods:
                self._rates.rate(pod, usages[pod.id])
            await self._containers(containers, whole=False)
        if unripe := self._rates.unripe(records, self._core.clock()):
            await asyncio.sleep(unripe / 1_000_000_000)

    async def _pods(self, records: Sequence[SandboxRecord], *, whole: bool) -> list[PodFigures]:
        members = [each for record in records for each in self._living(record)]
        # One after the other: threads that read at once take the interpreter's lock from each other at every
        # system call. That costs half as much CPU time again, and is no faster.
        usages = await self._pod_usages(records, whole=whole)
        inside = await self._containers(members, whole=whole)
        passed = await self._networks(records)
        containers: dict[str, list[ContainerFigures]] = {record.id: [] for record in records}
        for figures in inside:
            containers[figures.container.sandbox_id].append(figures)
        found = []
        for record in records:
            usage = usages[record.id]
            rate = None if whole else self._rates.rate(record, usage)
            passed_by = PodUsage(usage, passed.get(record.id))
            found.append(PodFigures(record, passed_by, rate, tuple(containers[record.id])))
        return found

    async def _pod_usages(self, records: Sequence[SandboxRecord], *, whole: bool) -> dict[str, CgroupUsage]:
        found: dict[str, CgroupUsage] = {}
        for handler, rows in self._core.by_caretaker(records, lambda record: record):
            usages = await _read_pods(handler.statistics, rows, whole=whole)
            found |= {record.id: usage for record, usage in zip(rows, usages, strict=True)}
        return found

    async def _containers(self, records: Sequence[ContainerRecord], *, whole: bool) -> list[ContainerFigures]:
        """In the order of the records, where they are of one handler."""
        found: list[ContainerFigures] = []
        for handler, rows in self._core.by_caretaker(self._core.with_pods(records), lambda one: one[1]):
            usages = await handler.statistics.containers(rows, whole=whole)
            found += (
                ContainerFigures(record, usage, None if whole else self._rates.rate(record, usage.cgroup))
                for (record, _), usage in zip(rows, usages, strict=True)
            )
        return found

    async def _networks(self, records: Sequence[SandboxRecord]) -> Mapping[SandboxId, NetworkUsage]:
        """Of the pods that have a network of their own; of none where it cannot be read."""
        pods = [self._core.pod_network(record) for record in records if not record.config.host_network]
        try:
            return await self._core.ports.networks.usage(pods) if pods else {}
        except (CribError, OSError):
            return {}


async def _read_pods(
    statistics: Statistics, pods: Sequence[SandboxRecord], *, whole: bool
) -> Sequence[CgroupUsage]:
    return await statistics.pods(pods, whole=whole)


def _is_ready(record: SandboxRecord | None) -> bool:
    return record is not None and record.state is SandboxState.READY


def _is_living(record: ContainerRecord | None) -> bool:
    return record is not None and record.state in (ContainerState.RUNNING, ContainerState.CREATED)


def _batches(records: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(records), BATCH):
        yield records[start : start + BATCH]
