"""Usage figures as read from cgroups, interfaces and directories at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.image import FilesystemUsage


@dataclass(frozen=True, slots=True)
class Stall:
    """Time in which tasks waited for a resource: percent of the last 10, 60 and 300 s; nanoseconds in all."""

    avg10: float
    avg60: float
    avg300: float
    total: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """Pressure stall information of one resource (kernel, accounting/psi).

    `some` is when at least one task waited, `full` when all did; an older kernel has no `full` of the CPU.
    """

    some: Stall
    full: Stall | None = None


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """`usage` is core-nanoseconds since creation; `nano_cores` the rate over the last two readings."""

    at: int
    usage: int
    nano_cores: int | None = None
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes. `working_set` is usage without inactive file pages; `available` is limit minus working set."""

    at: int
    usage: int
    working_set: int
    rss: int
    page_faults: int
    major_page_faults: int
    available: int | None = None
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class SwapUsage:
    """Bytes. `available` is limit minus usage, None without a limit."""

    at: int
    usage: int
    available: int | None = None


@dataclass(frozen=True, slots=True)
class IoUsage:
    """Waits for input and output."""

    at: int
    pressure: Pressure


@dataclass(frozen=True, slots=True)
class InterfaceUsage:
    """Counters of one interface of the pod (rtnl_link_stats64)."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What a cgroup tells: any part is None where its controller is not there, or the kernel does not tell.

    Pressure is of cgroup v2 only.
    """

    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    processes: int | None = None
    swap: SwapUsage | None = None
    io: IoUsage | None = None


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One container's usage now (CRI ContainerStats)."""

    cgroup: CgroupUsage
    writable_layer: FilesystemUsage | None = None


@dataclass(frozen=True, slots=True)
class PodUsage:
    """A pod's usage now (CRI PodSandboxStats), its containers' apart."""

    cgroup: CgroupUsage
    interfaces: tuple[InterfaceUsage, ...] = ()
    at: int = 0
