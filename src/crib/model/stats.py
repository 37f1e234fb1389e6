"""Usage as read from cgroups, interfaces and directories at one moment.

Tuples, as making a dataclass takes three times as long and a question makes thousands of these.

Whatever could not be read is None, never 0. Parts that say "whole" are read only where a reading is to be
whole: the CRI metrics need them, the CRI stats do not. `at` is when a part was read, in ns since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from crib.model.image import FilesystemUsage


class Stall(NamedTuple):
    """Time in which tasks waited for a resource: percent of the last 10, 60 and 300 s; nanoseconds in all."""

    avg10: float
    avg60: float
    avg300: float
    total: int


class Pressure(NamedTuple):
    """Pressure stall information of one resource (kernel, accounting/psi); cgroup v2 only.

    `some` is when at least one task waited, `full` when all did; an older kernel has no `full` of the CPU.
    """

    some: Stall
    full: Stall | None = None


class Throttling(NamedTuple):
    """How often, and for how many ns, the CPU quota held the cgroup back (kernel, scheduler/sched-bwc)."""

    periods: int
    throttled_periods: int
    throttled: int


class CpuUsage(NamedTuple):
    """Core-nanoseconds since creation."""

    at: int
    usage: int
    pressure: Pressure | None = None
    user: int | None = None
    """Whole, as `system` and `throttling`."""
    system: int | None = None
    throttling: Throttling | None = None


class MemoryParts(NamedTuple):
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


class MemoryUsage(NamedTuple):
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


class SwapUsage(NamedTuple):
    """Bytes. `available` is limit minus usage, None without a limit."""

    at: int
    usage: int
    available: int | None = None


class DeviceIo(NamedTuple):
    """Of one block device, by kind of operation: `Read`, `Write`, `Discard`; with v1 `Sync` and others."""

    name: str
    """Of its node in /dev; MAJOR:MINOR where the kernel does not tell."""
    major: int
    minor: int
    moved: Mapping[str, int]
    """Bytes."""
    operations: Mapping[str, int]


class IoUsage(NamedTuple):
    """Waits for input and output; `devices` is whole."""

    at: int
    pressure: Pressure | None = None
    devices: tuple[DeviceIo, ...] | None = None


class ProcessUsage(NamedTuple):
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


class HugePages(NamedTuple):
    """Bytes in huge pages of one size, which is written as the kernel does: `2MB`. Whole."""

    size: str
    usage: int
    peak: int | None = None


class CgroupUsage(NamedTuple):
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


class InterfaceUsage(NamedTuple):
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


class NetworkUsage(NamedTuple):
    """Every interface of a pod but loopback, eth0 first."""

    at: int
    interfaces: tuple[InterfaceUsage, ...]


class FilesystemRoom(NamedTuple):
    """The whole file system that writable layers are on: bytes, inodes, and what it is mounted from."""

    device: str
    size: int
    inodes: int
    free_inodes: int


class ContainerUsage(NamedTuple):
    """One container's usage now (CRI ContainerStats)."""

    cgroup: CgroupUsage
    writable_layer: FilesystemUsage | None = None
    room: FilesystemRoom | None = None
    """Of the writable layer. Whole."""


class PodUsage(NamedTuple):
    """A pod's usage now (CRI PodSandboxStats), its containers' apart."""

    cgroup: CgroupUsage
    network: NetworkUsage | None = None
    """None for a pod on the host's network, and where it cannot be read."""
