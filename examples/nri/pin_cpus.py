#!/usr/bin/env python3
"""A node plugin: containers that ask for whole CPUs get cores of their own, all others share the rest.

A container counts as asking for whole CPUs if its limit is a whole number of CPUs and its request is as high,
as in a pod of class Guaranteed. It gets whole cores, so that no other container runs on a sibling thread: of
one NUMA node if they fit there, else of as few as possible. When too few cores are left it shares, and the
log says so.

The plugin's configuration is JSON: {"reserved": "0-1"} are CPUs that are never given away. At least one core
stays shared in any case. Nothing is kept on disk: what a container has is read from the container itself.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crib import nri

SHARES_PER_CPU = 1024
_log = logging.getLogger("pin-cpus")

# the topology


@dataclass(frozen=True, order=True)
class Core:
    """Threads that share one core, by their CPU numbers."""

    node: int
    threads: tuple[int, ...]


def read_list(text: str) -> tuple[int, ...]:
    """The numbers of a list such as 0-3,8."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def write_list(numbers: Iterable[int]) -> str:
    """The other way round."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def read_topology(system: Path = Path("/sys/devices/system")) -> list[Core]:
    """The cores of this machine, as the kernel shows them; CPUs that are off are left out."""
    online = set(read_list((system / "cpu/online").read_text()))
    nodes = {
        cpu: int(directory.name.removeprefix("node"))
        for directory in system.glob("node/node[0-9]*")
        for cpu in read_list((directory / "cpulist").read_text())
    }
    cores = set()
    for cpu in online:
        siblings = read_list((system / f"cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        cores.add(Core(nodes.get(cpu, 0), tuple(one for one in siblings if one in online)))
    return sorted(cores)


# who gets what


class Pool:
    """Which container has which cores. The rest is shared."""

    def __init__(self, cores: Sequence[Core], reserved: Collection[int] = ()) -> None:
        self._cores = list(cores)
        self._kept = {core for core in cores if set(core.threads) & set(reserved)} or set(cores[:1])
        self._owners: dict[Core, str] = {}

    @property
    def shared(self) -> str:
        """CPUs that nobody has alone."""
        return write_list(cpu for core in self._cores if core not in self._owners for cpu in core.threads)

    @property
    def nodes(self) -> set[int]:
        """The machine's memory nodes."""
        return {core.node for core in self._cores}

    def cores_of(self, owner: str) -> list[Core]:
        """What a container has alone."""
        return [core for core in self._cores if self._owners.get(core) == owner]

    def give(self, owner: str, cpus: int) -> list[Core]:
        """As many whole cores as `cpus` need; none if there are too few."""
        free = [core for core in self._cores if core not in self._owners and core not in self._kept]
        by_node = {node: [core for core in free if core.node == node] for node in self.nodes}
        fits = [cores for cores in by_node.values() if _size(cores) >= cpus]
        # of the nodes where all of it fits the fullest one; else the emptiest first, to need few of them
        order = min(fits, key=_size) if fits else sorted(free, key=lambda core: -_size(by_node[core.node]))
        chosen: list[Core] = []
        for core in order:
            if _size(chosen) >= cpus:
                break
            chosen.append(core)
        if _size(chosen) < cpus:
            return []
        self._owners |= dict.fromkeys(chosen, owner)
        return chosen

    def keep(self, owner: str, cpus: Collection[int]) -> bool:
        """Leave a container what it has; whether these are whole cores that nobody else has."""
        found = [core for core in self._cores if set(core.threads) <= set(cpus)]
        if not found or {cpu for core in found for cpu in core.threads} != set(cpus):
            return False
        if any(core in self._owners or core in self._kept for core in found):
            return False
        self._owners |= dict.fromkeys(found, owner)
        return True

    def take_back(self, owner: str) -> bool:
        """Share what a container had alone; whether it had anything."""
        returned = self.cores_of(owner)
        for core in returned:
            del self._owners[core]
        return bool(returned)


def _size(cores: Sequence[Core]) -> int:
    return sum(len(core.threads) for core in cores)


def whole_cpus(resources: nri.LinuxResources) -> int:
    """How many CPUs of its own a container asks for; 0 if it asks for none or for parts."""
    cpu = resources.cpu
    if not (cpu.quota.value > 0 and cpu.period.value > 0 and resources.memory.limit.value > 0):
        return 0
    cpus, rest = divmod(cpu.quota.value, cpu.period.value)
    requested = math.isclose(cpu.shares.value, cpus * SHARES_PER_CPU, abs_tol=1)
    return cpus if not rest and requested else 0


# the plugin


class PinCpus(nri.NodePlugin):
    """Gives cores while containers are made and takes them back when these have ended."""

    def __init__(self, cores: Sequence[Core]) -> None:
        self._cores = cores
        self._pool = Pool(cores)
        self._reserved: tuple[int, ...] = ()
        self._sharing: set[str] = set()

    async def configure(self, config: str) -> None:
        self._reserved = read_list(json.loads(config or "{}").get("reserved", ""))

    async def synchronize(
        self,
        pods: Sequence[nri.PodSandbox],
        containers: Sequence[nri.Container],
        updates: nri.ContainerUpdates,
    ) -> None:
        self._pool, self._sharing = Pool(self._cores, self._reserved), set()
        alive = [one for one in containers if one.state != nri.messages.CONTAINER_STOPPED]
        asking = [one for one in alive if whole_cpus(one.linux.resources)]
        moved = [
            one for one in asking if not self._pool.keep(one.id, read_list(one.linux.resources.cpu.cpus))
        ]
        self._sharing = {one.id for one in alive} - {one.id for one in asking}
        for one in moved:
            self._settle(one, updates.update(one.id).ignore_failure())
        self._share_again(updates)

    async def create_container(
        self, pod: nri.PodSandbox, container: nri.Container, changes: nri.NewContainerChanges
    ) -> None:
        self._settle(container, changes.adjust)
        if self._pool.cores_of(container.id):
            self._share_again(changes, but=container.id)

    async def stop_container(
        self, pod: nri.PodSandbox, container: nri.Container, updates: nri.ContainerUpdates
    ) -> None:
        self._sharing.discard(container.id)
        if self._pool.take_back(container.id):
            self._share_again(updates)

    async def remove_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """One that was never started does not stop. Those that share learn of it with the next change."""
        self._sharing.discard(container.id)
        self._pool.take_back(container.id)

    def _settle(self, container: nri.Container, change: nri.Adjustment | nri.ResourceUpdate) -> None:
        asked = whole_cpus(container.linux.resources)
        cores = self._pool.give(container.id, asked) if asked else []
        if cores:
            change.set_cpu(cpus=write_list(cpu for core in cores for cpu in core.threads))
            if len(self._pool.nodes) > 1:
                change.set_cpu(mems=write_list(core.node for core in cores))
            return
        if asked:
            _log.warning("container %s asks for %d CPUs, too few are left: it shares", container.id, asked)
        self._sharing.add(container.id)
        change.set_cpu(cpus=self._pool.shared)

    def _share_again(self, updates: nri.ContainerUpdates, but: str = "") -> None:
        for container_id in sorted(self._sharing - {but}):
            updates.update(container_id).ignore_failure().set_cpu(cpus=self._pool.shared)


if __name__ == "__main__":
    nri.run(PinCpus(read_topology()))
