"""Usage as read from cgroups, interfaces and directories at one moment.

Whatever could not be read is None, never 0. Parts that say "whole" are read only where a reading is to be
whole: the CRI metrics need them, the CRI stats do not. `at` is when a part was read, in ns since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """Pressure stall information of one resource (kernel, accounting/psi); cgroup v2 only.

    `some` is when at least one task waited, `full` when all did; an older kernel has no `full` of the CPU.
    """

    some: Stall
    full: Stall | None = None


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often, and for how many ns, the CPU quota held the cgroup back (kernel, scheduler/sched-bwc)."""

    periods: int
    throttled_periods: int
    throttled: int


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """Core-nanoseconds since creation."""

    at: int
    usage: int
    pressure: Pressure | None = None
    user: int | None = None
    """Whole, as `system` and `throttling`."""
    system: int | None = None
    throttling: Throttling | None = None


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """What the memory is made of and what became of its limits; bytes and counts. Whole."""

    cache: int | None = None
    mapped_file: int | None = None
    kernel: int | None = None
    active_file: int | None = None
    inactive_file: int | None = None
    peak: int | None = None
    """The most that was ever in use."""
    limit_hits: int | None = None
    """How often the limit was met."""
    own_page_faults: int | None = None
    """Without those of cgroups below."""
    own_major_page_faults: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes. `working_set` is usage without inactive file pages; `available` is limit minus working set."""

    at: int
    usage: int
    working_set: int | None = None
    rss: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    limit: int | None = None
    """The cgroup's own; None without one."""
    available: int | None = None
    pressure: Pressure | None = None
    parts: MemoryParts | None = None


@dataclass(frozen=True, slots=True)
class SwapUsage:
    """Bytes. `available` is limit minus usage, None without a limit."""

    at: int
    usage: int
    available: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """Of one block device, by kind of operation: `Read`, `Write`, `Discard`; with v1 `Sync` and others."""

    name: str
    """Of its node in /dev; MAJOR:MINOR where the kernel does not tell."""
    major: int
    minor: int
    moved: Mapping[str, int]
    """Bytes."""
    operations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class IoUsage:
    """Waits for input and output; `devices` is whole."""

    at: int
    pressure: Pressure | None = None
    devices: tuple[DeviceIo, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Counts, in the cgroup and in those below it. A thread is a task as the pids controller counts it."""

    at: int
    processes: int | None = None
    threads: int | None = None
    """Whole, as what follows."""
    most_threads: int | None = None
    """The limit of `threads`; None without one."""
    descriptors: int | None = None
    sockets: int | None = None
    """Among the descriptors."""
    descriptors_limit: int | None = None
    """Soft limit of the descriptors of one process, the first; None without one."""


@dataclass(frozen=True, slots=True)
class HugePages:
    """Bytes in huge pages of one size, which is written as the kernel does: `2MB`. Whole."""

    size: str
    usage: int
    peak: int | None = None


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What a cgroup tells: a part is None where its controller is not there, or the kernel does not tell."""

    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    swap: SwapUsage | None = None
    io: IoUsage | None = None
    processes: ProcessUsage | None = None
    huge_pages: tuple[HugePages, ...] | None = None
    """Whole, as `oom_kills`."""
    oom_kills: int | None = None
    """Processes that the kernel killed for want of memory."""
    path: str = ""
    """Of the cgroup itself, below the roots of the controllers. Whole."""


@dataclass(frozen=True, slots=True)
class InterfaceUsage:
    """Counters of one interface of the pod (rtnl_link_stats64)."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int
    rx_packets: int = 0
    rx_dropped: int = 0
    tx_packets: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class NetworkUsage:
    """Every interface of a pod but loopback, eth0 first."""

    at: int
    interfaces: tuple[InterfaceUsage, ...]


@dataclass(frozen=True, slots=True)
class FilesystemRoom:
    """The whole file system that writable layers are on: bytes, inodes, and what it is mounted from."""

    device: str
    size: int
    inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One container's usage now (CRI ContainerStats)."""

    cgroup: CgroupUsage
    writable_layer: FilesystemUsage | None = None
    room: FilesystemRoom | None = None
    """Of the writable layer. Whole."""


@dataclass(frozen=True, slots=True)
class PodUsage:
    """A pod's usage now (CRI PodSandboxStats), its containers' apart."""

    cgroup: CgroupUsage
    files: FilesystemUsage | None = None
    """Of its own file systems: hosts, hostname, resolv.conf and /dev/shm. Whole."""
    network: NetworkUsage | None = None
    """None for a pod on the host's network, and where it cannot be read."""
