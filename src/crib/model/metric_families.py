"""Every metric of pods and containers: descriptors, samples and their documentation are made from this."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from operator import attrgetter
from typing import Any

from crib.model.metrics import Labelled, Metered, MetricFamily, MetricGroup, MetricKind, Of, Value
from crib.model.sandbox import Resources
from crib.model.stats import (
    CpuUsage,
    InterfaceUsage,
    IoUsage,
    MemoryUsage,
    Pressure,
    ProcessUsage,
)

_SECOND = 1_000_000_000
_TOTAL_CPU = ("total",)
"""Of the label `cpu`: all CPUs together, as cAdvisor has it where it does not tell them apart."""
_FILES_LIMIT = ("max_open_files",)
"""Of the label `ulimit`."""


def families_of(groups: Collection[str]) -> tuple[MetricFamily, ...]:
    """Those of the chosen groups, and those that are always there."""
    return tuple(family for family in FAMILIES if family.group in (*groups, MetricGroup.ALWAYS))


class _Table:
    """Families of one group that are read from the same part of a reading, which `path` leads to."""

    def __init__(self, group: MetricGroup, of: Of, *path: str) -> None:
        self._group, self._of, self._path = group, of, path

    def counter(
        self, name: str, text: str, value: str | Callable[[Any], Value], *labels: str
    ) -> MetricFamily:
        """`value` of the part: by its name, or by a function."""
        return self._family(name, MetricKind.COUNTER, text, value, labels)

    def gauge(self, name: str, text: str, value: str | Callable[[Any], Value], *labels: str) -> MetricFamily:
        return self._family(name, MetricKind.GAUGE, text, value, labels)

    def _family(
        self,
        name: str,
        kind: MetricKind,
        text: str,
        value: str | Callable[[Any], Value],
        labels: tuple[str, ...],
    ) -> MetricFamily:
        taken = attrgetter(value) if isinstance(value, str) else value
        return MetricFamily(name, kind, text, self._group, self._of, self._path, taken, labels)


def _seconds(figure: str) -> Callable[[Any], int | None]:
    """Whole seconds of a figure in nanoseconds."""
    taken = attrgetter(figure)

    def read(part: Any) -> int | None:
        nanoseconds = taken(part)
        return None if nanoseconds is None else nanoseconds // _SECOND

    return read


_always = _Table(MetricGroup.ALWAYS, Of.CGROUP)
_ALWAYS = (
    _always.gauge("container_last_seen", "When it was read last: seconds since the epoch.", _seconds("at")),
)

_cpu = _Table(MetricGroup.CPU, Of.CGROUP, "cgroup", "cpu")
_quota = _Table(MetricGroup.CPU, Of.CGROUP)


def _all_cpus(cpu: CpuUsage) -> tuple[Labelled, ...]:
    return ((_TOTAL_CPU, cpu.usage // _SECOND),)


def _throttled(value: Callable[[Any], int | None]) -> Callable[[Metered], int | None]:
    """Where there is a quota, as cAdvisor has it: without one there are no periods."""

    def read(metered: Metered) -> int | None:
        cpu, limits = metered.cgroup.cpu, metered.limits
        throttling = None if cpu is None else cpu.throttling
        if throttling is None or not (throttling.periods or (limits and limits.cpu_quota > 0)):
            return None
        return value(throttling)

    return read


_CPU = (
    _cpu.counter("container_cpu_user_seconds_total", "Time on a CPU in user mode.", _seconds("user")),
    _cpu.counter("container_cpu_system_seconds_total", "Time on a CPU in the kernel.", _seconds("system")),
    _cpu.counter("container_cpu_usage_seconds_total", "Time on a CPU, of all CPUs.", _all_cpus, "cpu"),
    _quota.counter(
        "container_cpu_cfs_periods_total",
        "Periods of the CPU quota in which it wanted to run; none of these three without a quota.",
        _throttled(attrgetter("periods")),
    ),
    _quota.counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the quota was used up.",
        _throttled(attrgetter("throttled_periods")),
    ),
    _quota.counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time for which the quota held it back, of all CPUs.",
        _throttled(_seconds("throttled")),
    ),
)

_layer = _Table(MetricGroup.DISK, Of.CONTAINER)


def _of_disk(figure: str) -> Callable[[Metered], tuple[Labelled, ...]]:
    """A figure of the file system that the writable layer is on."""

    def read(metered: Metered) -> tuple[Labelled, ...]:
        room = metered.room
        return () if room is None else (((room.device,), getattr(room, figure)),)

    return read


def _layer_bytes(metered: Metered) -> tuple[Labelled, ...]:
    if metered.room is None or metered.writable_layer is None:
        return ()
    return (((metered.room.device,), metered.writable_layer.used_bytes),)


_DISK = (
    _layer.gauge(
        "container_fs_inodes_free",
        "Inodes that are left on the file system of the writable layer.",
        _of_disk("free_inodes"),
        "device",
    ),
    _layer.gauge(
        "container_fs_inodes_total",
        "Inodes of the file system of the writable layer.",
        _of_disk("inodes"),
        "device",
    ),
    _layer.gauge(
        "container_fs_limit_bytes",
        "Size of the file system of the writable layer.",
        _of_disk("size"),
        "device",
    ),
    _layer.gauge("container_fs_usage_bytes", "Bytes that the writable layer takes.", _layer_bytes, "device"),
)

_io = _Table(MetricGroup.DISK_IO, Of.CGROUP, "cgroup", "io")


def _by_device(figures: str, operation: str) -> Callable[[IoUsage], Iterator[Labelled]]:
    def read(usage: IoUsage) -> Iterator[Labelled]:
        for device in usage.devices or ():
            of_operations: Mapping[str, int] = getattr(device, figures)
            if operation in of_operations:
                yield (device.name,), of_operations[operation]

    return read


def _by_operation(usage: IoUsage) -> Iterator[Labelled]:
    for device in usage.devices or ():
        for operation, moved in device.moved.items():
            yield (device.name, str(device.major), str(device.minor), operation), moved


_DISK_IO = (
    *(
        _io.counter(f"container_fs_{name}_total", text, _by_device(figures, operation), "device")
        for name, text, figures, operation in (
            ("reads_bytes", "Bytes read from a block device.", "moved", "Read"),
            ("reads", "Reads of a block device.", "operations", "Read"),
            ("writes_bytes", "Bytes written to a block device.", "moved", "Write"),
            ("writes", "Writes to a block device.", "operations", "Write"),
        )
    ),
    _io.counter(
        "container_blkio_device_usage_total",
        "Bytes moved from or to a block device, by kind of operation.",
        _by_operation,
        "device",
        "major",
        "minor",
        "operation",
    ),
)

_huge = _Table(MetricGroup.HUGETLB, Of.CONTAINER, "cgroup", "huge_pages")
_HUGETLB = (
    _huge.gauge(
        "container_hugetlb_usage_bytes",
        "Bytes in huge pages of one size.",
        lambda sizes: [((pages.size,), pages.usage) for pages in sizes],
        "pagesize",
    ),
    _huge.gauge(
        "container_hugetlb_max_usage_bytes",
        "The most bytes that were ever in huge pages of one size; cgroup v1 only.",
        lambda sizes: [((pages.size,), pages.peak) for pages in sizes if pages.peak is not None],
        "pagesize",
    ),
)

_memory = _Table(MetricGroup.MEMORY, Of.CGROUP, "cgroup", "memory")
_parts = _Table(MetricGroup.MEMORY, Of.CGROUP, "cgroup", "memory", "parts")
_swap = _Table(MetricGroup.MEMORY, Of.CGROUP, "cgroup", "swap")


def _faults(memory: MemoryUsage) -> Iterator[Labelled]:
    """The scope `container` is without cgroups below. cgroup v2 does not tell them apart, and so has both."""
    parts = memory.parts
    for kind, own, all_below in (
        ("pgfault", parts and parts.own_page_faults, memory.page_faults),
        ("pgmajfault", parts and parts.own_major_page_faults, memory.major_page_faults),
    ):
        if all_below is not None:
            yield (kind, "container"), own if isinstance(own, int) else all_below
            yield (kind, "hierarchy"), all_below


_MEMORY = (
    _memory.gauge("container_memory_rss", "Bytes of anonymous memory, without swap.", "rss"),
    _memory.gauge("container_memory_usage_bytes", "Bytes in use, the page cache included.", "usage"),
    _memory.gauge(
        "container_memory_working_set_bytes",
        "Bytes in use without the inactive file pages: a kubelet evicts by it.",
        "working_set",
    ),
    _memory.counter(
        "container_memory_failures_total",
        "Page faults: all (pgfault), and those that waited for a disk (pgmajfault).",
        _faults,
        "failure_type",
        "scope",
    ),
    _parts.gauge("container_memory_cache", "Bytes in the page cache.", "cache"),
    _parts.gauge("container_memory_kernel_usage", "Bytes of kernel memory charged to it.", "kernel"),
    _parts.gauge("container_memory_mapped_file", "Bytes of files mapped into memory.", "mapped_file"),
    _parts.gauge("container_memory_max_usage_bytes", "The most bytes that were ever in use.", "peak"),
    _parts.counter("container_memory_failcnt", "How often the memory limit was met.", "limit_hits"),
    _swap.gauge("container_memory_swap", "Bytes in swap.", "usage"),
)

_network = _Table(MetricGroup.NETWORK, Of.POD, "interfaces")


def _by_interface(figure: str) -> Callable[[tuple[InterfaceUsage, ...]], list[Labelled]]:
    return lambda interfaces: [((one.name,), getattr(one, figure)) for one in interfaces]


_NETWORK = tuple(
    _network.counter(f"container_network_{name}_total", text, _by_interface(figure), "interface")
    for name, text, figure in (
        ("receive_bytes", "Bytes received.", "rx_bytes"),
        ("receive_packets", "Packets received.", "rx_packets"),
        ("receive_packets_dropped", "Packets dropped on their way in.", "rx_dropped"),
        ("receive_errors", "Errors while receiving.", "rx_errors"),
        ("transmit_bytes", "Bytes sent.", "tx_bytes"),
        ("transmit_packets", "Packets sent.", "tx_packets"),
        ("transmit_packets_dropped", "Packets dropped on their way out.", "tx_dropped"),
        ("transmit_errors", "Errors while sending.", "tx_errors"),
    )
)

_oom = _Table(MetricGroup.OOM, Of.CGROUP, "cgroup", "oom_kills")
_OOM = (
    _oom.counter(
        "container_oom_events_total",
        "Processes that the kernel killed because memory had run out.",
        lambda kills: kills,
    ),
)


def _of_all(pressure: Pressure) -> int | None:
    return None if pressure.full is None else pressure.full.total // _SECOND


def _pressure(name: str, words: str) -> tuple[MetricFamily, MetricFamily]:
    table = _Table(MetricGroup.PRESSURE, Of.CGROUP, "cgroup", name, "pressure")
    return (
        table.counter(
            f"container_pressure_{name}_stalled_seconds_total",
            f"Time in which all tasks waited for {words}; cgroup v2 only.",
            _of_all,
        ),
        table.counter(
            f"container_pressure_{name}_waiting_seconds_total",
            f"Time in which at least one task waited for {words}; cgroup v2 only.",
            _seconds("some.total"),
        ),
    )


_PRESSURE = (
    *_pressure("cpu", "a CPU"),
    *_pressure("memory", "memory"),
    *_pressure("io", "input or output"),
)

_tasks = _Table(MetricGroup.PROCESS, Of.CONTAINER, "cgroup", "processes")


def _most_threads(tasks: ProcessUsage) -> int | None:
    return None if tasks.threads is None else tasks.most_threads or 0


def _soft_limits(tasks: ProcessUsage) -> tuple[Labelled, ...] | None:
    return None if tasks.descriptors_limit is None else ((_FILES_LIMIT, tasks.descriptors_limit),)


_PROCESS = (
    _tasks.gauge("container_processes", "Processes.", "processes"),
    _tasks.gauge("container_threads", "Threads of all processes.", "threads"),
    _tasks.gauge("container_threads_max", "Threads that there may be at most; 0: no limit.", _most_threads),
    _tasks.gauge("container_file_descriptors", "Open file descriptors of all processes.", "descriptors"),
    _tasks.gauge("container_sockets", "Sockets among the open file descriptors.", "sockets"),
    _tasks.gauge(
        "container_ulimits_soft",
        "Soft limits of the first process; no sample for an infinite one, which the CRI has no number for.",
        _soft_limits,
        "ulimit",
    ),
)

_limits = _Table(MetricGroup.SPEC, Of.CONTAINER, "limits")
_start = _Table(MetricGroup.SPEC, Of.CGROUP)
_PERIOD = 100_000
"""Microseconds: the kernel's, where nothing else was asked for (scheduler/sched-bwc)."""


def _reserved(limits: Resources) -> int:
    least = limits.unified.get("memory.min", "")
    return int(least) if least.isdecimal() else 0


_SPEC = (
    _limits.gauge(
        "container_spec_cpu_period",
        "Microseconds of a period of the CPU quota.",
        lambda limits: limits.cpu_period or _PERIOD,
    ),
    _limits.gauge(
        "container_spec_cpu_quota",
        "Microseconds on a CPU in each period; no sample where there is no quota.",
        lambda limits: limits.cpu_quota if limits.cpu_quota > 0 else None,
    ),
    _limits.gauge(
        "container_spec_cpu_shares",
        "Weight among neighbours; no sample where none was asked for.",
        lambda limits: limits.cpu_shares or None,
    ),
    _limits.gauge(
        "container_spec_memory_limit_bytes",
        "Limit of memory; 0: none.",
        lambda limits: max(limits.memory_limit_in_bytes, 0),
    ),
    _limits.gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is left to it when memory is short (memory.min of cgroup v2); 0: none.",
        _reserved,
    ),
    _limits.gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together; 0: none.",
        lambda limits: max(limits.memory_swap_limit_in_bytes, 0),
    ),
    _start.gauge(
        "container_start_time_seconds",
        "When it started: seconds since the epoch.",
        lambda metered: metered.started_at // _SECOND or None,
    ),
)

FAMILIES: tuple[MetricFamily, ...] = (
    *_ALWAYS,
    *_CPU,
    *_DISK,
    *_DISK_IO,
    *_HUGETLB,
    *_MEMORY,
    *_NETWORK,
    *_OOM,
    *_PRESSURE,
    *_PROCESS,
    *_SPEC,
)
"""In the order in which they are listed. Those read from the same part stand together."""
