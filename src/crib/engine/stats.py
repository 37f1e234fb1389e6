"""Usage of containers and pods, read at the moment of the question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from crib.engine.core import Core
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.model.stats import CgroupUsage, ContainerUsage, CpuUsage, InterfaceUsage, PodUsage
from crib.tasks.groups import all_of

SHORTEST_RATE = 100_000_000
"""Nanoseconds between two readings that give a rate; closer ones give the previous rate."""


@dataclass(frozen=True, slots=True)
class PodFigures:
    """A pod's usage, its interfaces' and its containers'."""

    sandbox: SandboxRecord
    usage: PodUsage
    interfaces: tuple[InterfaceUsage, ...]
    containers: tuple[tuple[ContainerRecord, ContainerUsage], ...]


class Stats:
    """Reads figures through the ports and turns two cpu readings into a rate."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._readings: dict[str, CpuUsage] = {}

    async def container(self, text: str) -> tuple[ContainerRecord, ContainerUsage]:
        record = self._core.container(text)
        return record, await self._container(record)

    async def containers(
        self, records: Iterable[ContainerRecord]
    ) -> list[tuple[ContainerRecord, ContainerUsage]]:
        """Of those that run or wait to be started; one that goes away meanwhile is left out."""
        figures = []
        for record in records:
            if record.state not in (ContainerState.RUNNING, ContainerState.CREATED):
                continue
            try:
                figures.append((record, await self._container(record)))
            except CribError:
                continue  # it ended between the list and the reading
        return figures

    async def pod(self, text: str) -> PodFigures:
        return await self._pod(self._core.sandbox(text))

    async def pods(self, records: Iterable[SandboxRecord]) -> list[PodFigures]:
        """Of those that are ready; one that goes away meanwhile is left out."""
        ready = [record for record in records if record.state is SandboxState.READY]
        found = await all_of("figures of a pod", map(self._pod_if_there, ready))
        return [figures for figures in found if figures is not None]

    async def _pod_if_there(self, record: SandboxRecord) -> PodFigures | None:
        try:
            return await self._pod(record)
        except Exception:  # whatever it is: the figures of the other pods are wanted
            return None

    async def _container(self, record: ContainerRecord) -> ContainerUsage:
        sandbox = self._core.sandbox(record.sandbox_id)
        usage = await self._core.caretaker(sandbox).statistics.container(record, sandbox)
        return replace(usage, cgroup=self._with_rate(record.id, usage.cgroup))

    async def _pod(self, record: SandboxRecord) -> PodFigures:
        usage = await self._core.caretaker(record).statistics.pod(record)
        usage = replace(usage, cgroup=self._with_rate(record.id, usage.cgroup))
        interfaces: tuple[InterfaceUsage, ...] = ()
        if not record.config.host_network:
            interfaces = tuple(await self._core.ports.networks.usage(self._core.pod_network(record)))
        containers = await self.containers(self._core.containers_of(record.id))
        return PodFigures(record, usage, interfaces, tuple(containers))

    def _with_rate(self, key: str, usage: CgroupUsage) -> CgroupUsage:
        cpu = usage.cpu
        if cpu is None:
            return usage
        before = self._readings.get(key)
        rate = None if before is None else before.nano_cores
        if before is None or cpu.at - before.at >= SHORTEST_RATE:
            if before is not None and cpu.usage >= before.usage:
                rate = (cpu.usage - before.usage) * 1_000_000_000 // (cpu.at - before.at)
            self._readings[key] = replace(cpu, nano_cores=rate)
            self._forget_the_gone()
        return replace(usage, cpu=replace(cpu, nano_cores=rate))

    def _forget_the_gone(self) -> None:
        if len(self._readings) > 2 * (len(self._core.containers) + len(self._core.sandboxes)) + 64:
            core = self._core
            self._readings = {
                key: value
                for key, value in self._readings.items()
                if core.containers.get(key) or core.sandboxes.get(key)
            }
