"""Limits as a cgroup's files have them (kernel, admin-guide/cgroup-v1 and cgroup-v2)."""

from __future__ import annotations

import math
from dataclasses import replace

from crib.model.sandbox import Resources, SandboxRecord
from crib.wire import oci_runtime as oci

_DEFAULT_PERIOD = 100_000
"""Microseconds: the kernel's own cfs_period_us."""
_SHARES = range(2, 262145)


def limit_files(limits: oci.Resources, layout: str) -> tuple[tuple[str, str], ...]:
    """Each file and what to write, once; `layout` as HostFacts has it. What is not set is not written.

    A pair that depends on each other (limit and limit with swap, period and quota) may have to be written in
    the other order: that is for the writer to find out.
    """
    files = _files_v2(limits) if layout == "v2" else _files_v1(limits)
    if limits.pids is not None:
        files["pids.max"] = _or_max(limits.pids.limit)
    return tuple((files | limits.unified).items())


def _files_v1(limits: oci.Resources) -> dict[str, str]:
    files: dict[str, str] = {}
    if (cpu := limits.cpu) is not None:
        files |= {
            key: str(value)
            for key, value in (
                ("cpu.shares", cpu.shares),
                ("cpu.cfs_period_us", cpu.period),
                ("cpu.cfs_quota_us", cpu.quota),
                ("cpu.rt_period_us", cpu.realtime_period),
                ("cpu.rt_runtime_us", cpu.realtime_runtime),
                ("cpuset.cpus", cpu.cpus or None),
                ("cpuset.mems", cpu.mems or None),
            )
            if value is not None
        }
    if (memory := limits.memory) is not None:
        if memory.limit is not None:
            files["memory.limit_in_bytes"] = str(memory.limit)
        if memory.swap is not None:
            files["memory.memsw.limit_in_bytes"] = str(memory.swap)
        files |= {
            key: str(int(value))
            for key, value in (
                ("memory.soft_limit_in_bytes", memory.reservation),
                ("memory.kmem.limit_in_bytes", memory.kernel),
                ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp),
                ("memory.swappiness", memory.swappiness),
                ("memory.oom_control", memory.disable_oom_killer),
                ("memory.use_hierarchy", memory.use_hierarchy),
            )
            if value is not None
        }
    for page in limits.hugepage_limits:
        files[f"hugetlb.{page.page_size}.limit_in_bytes"] = str(page.limit)
    return files


def _files_v2(limits: oci.Resources) -> dict[str, str]:
    files: dict[str, str] = {}
    if (cpu := limits.cpu) is not None:
        if cpu.shares is not None:
            files["cpu.weight"] = str(cpu_weight(cpu.shares))
        if cpu.quota is not None or cpu.period is not None:
            quota = "max" if cpu.quota is None or cpu.quota < 0 else str(cpu.quota)
            files["cpu.max"] = f"{quota} {cpu.period or _DEFAULT_PERIOD}"
        if cpu.cpus:
            files["cpuset.cpus"] = cpu.cpus
        if cpu.mems:
            files["cpuset.mems"] = cpu.mems
    if (memory := limits.memory) is not None:
        if memory.limit is not None:
            files["memory.max"] = _or_max(memory.limit)
        if memory.swap is not None:
            files["memory.swap.max"] = _or_max(_swap_beyond(memory))
        if memory.reservation is not None:
            files["memory.low"] = _or_max(memory.reservation)
    for page in limits.hugepage_limits:
        files[f"hugetlb.{page.page_size}.max"] = str(page.limit)
    return files


def cpu_weight(shares: int) -> int:
    """Shares (2 to 262144) as a weight (1 to 10000): 1024 is 100, the kernel's default of each.

    The curve that new runtimes draw; older ones draw a straight line, on which 1024 is 39. So a
    weight is always written by us, at creation too: two containers must not be weighed by different scales.
    """
    power = math.log2(min(max(shares, _SHARES.start), _SHARES.stop - 1))
    return math.ceil(round(10 ** ((power * power + 125 * power) / 612 - 7 / 34), 6))


def pod_limits(record: SandboxRecord, own: Resources | None) -> Resources:
    """What the pod's cgroup may use: its containers' resources and the overhead, added as a kubelet does.

    `own` is the overhead of a pod whose client has named none. None: nobody knows it, and a limit could end
    what the pod is made of; so only its weight is kept.
    """
    resources = record.resources or record.config.resources
    overhead = record.overhead or record.config.overhead or own
    if resources is None:
        return Resources()
    if overhead is None:
        return Resources(cpu_shares=resources.cpu_shares)
    period = resources.cpu_period or _DEFAULT_PERIOD
    more = max(overhead.cpu_quota, 0) * period // (overhead.cpu_period or _DEFAULT_PERIOD)
    memory = max(overhead.memory_limit_in_bytes, 0)
    return replace(
        resources,
        cpu_shares=resources.cpu_shares and resources.cpu_shares + overhead.cpu_shares,
        cpu_quota=resources.cpu_quota + more if resources.cpu_quota > 0 else resources.cpu_quota,
        memory_limit_in_bytes=_sum(resources.memory_limit_in_bytes, memory),
        memory_swap_limit_in_bytes=_sum(resources.memory_swap_limit_in_bytes, memory),
    )


def _sum(limit: int, more: int) -> int:
    return limit + more if limit > 0 else limit


def _swap_beyond(memory: oci.Memory) -> int:
    """OCI counts memory and swap together, cgroup v2 only swap."""
    if memory.swap is None or memory.swap < 0:
        return -1
    return max(memory.swap - (memory.limit or 0), 0) if memory.limit is None or memory.limit >= 0 else -1


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)
