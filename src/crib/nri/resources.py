"""Limits of a container, set one by one: within an adjustment or an update."""

from __future__ import annotations

from typing import Self, TypedDict, Unpack

from crib.stubs.nri.v1alpha1.api_pb2 import HugepageLimit, LinuxResources


class MemorySettings(TypedDict, total=False):
    """In bytes; `swap` is memory and swap together; `swappiness` is 0 to 100."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernel_tcp: int
    swappiness: int
    disable_oom_killer: bool
    use_hierarchy: bool


class CpuSettings(TypedDict, total=False):
    """Quota, period and the like are in microseconds; `cpus` and `mems` are lists such as 0-3,8."""

    shares: int
    quota: int
    period: int
    realtime_runtime: int
    realtime_period: int
    cpus: str
    mems: str


class SettableResources:
    """What has limits. Each method sets what it is given and leaves the rest alone."""

    @property
    def resources(self) -> LinuxResources:
        """The limits that are set so far."""
        raise NotImplementedError

    def set_memory(self, **limits: Unpack[MemorySettings]) -> Self:
        """Limits of memory."""
        memory = self.resources.memory
        for name, value in limits.items():
            getattr(memory, name).value = value
        return self

    def set_cpu(self, **limits: Unpack[CpuSettings]) -> Self:
        """Limits of processor time, and the processors and memory nodes to run on."""
        cpu = self.resources.cpu
        for name, value in limits.items():
            if name in ("cpus", "mems"):
                setattr(cpu, name, value)
            else:
                getattr(cpu, name).value = value
        return self

    def set_pids(self, limit: int) -> Self:
        """How many processes and threads there may be."""
        self.resources.pids.limit = limit
        return self

    def set_hugepages(self, page_size: str, limit: int) -> Self:
        """Bytes in pages of a size, such as 2MB."""
        self.resources.hugepage_limits.append(HugepageLimit(page_size=page_size, limit=limit))
        return self

    def set_unified(self, key: str, value: str) -> Self:
        """A file of cgroup v2, such as memory.high."""
        self.resources.unified[key] = value
        return self

    def set_blockio_class(self, name: str) -> Self:
        """One of the classes that the runtime is configured with."""
        self.resources.blockio_class.value = name
        return self

    def set_rdt_class(self, name: str) -> Self:
        """One of the classes that the runtime is configured with."""
        self.resources.rdt_class.value = name
        return self
