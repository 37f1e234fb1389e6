"""Limits: CRI LinuxContainerResources as the OCI has them."""

from __future__ import annotations

import re

from crib.model.errors import InvalidRequest
from crib.model.facts import HostFacts
from crib.model.sandbox import Resources
from crib.ocispec.devices import device_rules
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci

_FIELD = "config.linux.resources"
_PAGE_SIZE = re.compile(r"[0-9]{1,6}[KMG]B")
_CPU_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_UNIFIED_KEY = re.compile(r"[a-z0-9_]+\.[A-Za-z0-9_.]+")


def resources(inputs: ContainerInputs) -> oci.Resources:
    """The `resources` of config.json."""
    limits = cgroup_limits(inputs.config.resources, inputs.host)
    return oci.Resources(
        devices=device_rules(inputs),
        memory=limits.memory,
        cpu=limits.cpu,
        hugepage_limits=limits.hugepage_limits,
        unified=limits.unified,
    )


def cgroup_limits(wanted: Resources, host: HostFacts) -> oci.Resources:
    """The part that can be changed later too (no devices); what is not set stays away."""
    return oci.Resources(
        memory=_memory(wanted, host),
        cpu=_cpu(wanted),
        hugepage_limits=_hugepages(wanted, host),
        unified=_unified(wanted, host),
    )


def _memory(wanted: Resources, host: HostFacts) -> oci.Memory | None:
    limit, swap = wanted.memory_limit_in_bytes, wanted.memory_swap_limit_in_bytes
    if limit < 0 or swap < -1:
        raise InvalidRequest("a limit cannot be negative", field=f"{_FIELD}.memory_limit_in_bytes")
    if swap > 0 and limit > swap:
        raise InvalidRequest(
            f"{swap} (memory and swap together) is less than the memory limit {limit}",
            field=f"{_FIELD}.memory_swap_limit_in_bytes",
        )
    if not limit and not swap:
        return None
    if not host.swap_accounting:
        return oci.Memory(limit=limit) if limit else None
    # Without a word about swap a limit means: no swap beyond it.
    return oci.Memory(limit=limit or None, swap=swap or limit)


def _cpu(wanted: Resources) -> oci.Cpu | None:
    for name in ("cpuset_cpus", "cpuset_mems"):
        value = getattr(wanted, name)
        if value and _CPU_LIST.fullmatch(value) is None:
            raise InvalidRequest(f"{value!r} is not a list such as 0-2,5", field=f"{_FIELD}.{name}")
    if wanted.cpu_shares < 0 or wanted.cpu_period < 0:
        raise InvalidRequest("shares and periods cannot be negative", field=f"{_FIELD}.cpu_shares")
    cpu = oci.Cpu(
        shares=wanted.cpu_shares or None,
        quota=wanted.cpu_quota or None,
        period=wanted.cpu_period or None,
        cpus=wanted.cpuset_cpus,
        mems=wanted.cpuset_mems,
    )
    return None if cpu == oci.Cpu() else cpu


def _hugepages(wanted: Resources, host: HostFacts) -> tuple[oci.HugepageLimit, ...]:
    limits = []
    for size, limit in wanted.hugepage_limits.items():
        if _PAGE_SIZE.fullmatch(size) is None or limit < 0:
            raise InvalidRequest(f"{size!r}: {limit} is no limit", field=f"{_FIELD}.hugepage_limits")
        # The kubelet sends a limit of 0 for every size; where there is no controller only that can be
        # promised.
        if "hugetlb" in host.cgroup_controllers:
            limits.append(oci.HugepageLimit(page_size=size, limit=limit))
        elif limit:
            raise InvalidRequest("this host has no hugetlb controller", field=f"{_FIELD}.hugepage_limits")
    return tuple(limits)


def _unified(wanted: Resources, host: HostFacts) -> dict[str, str]:
    if wanted.unified and host.cgroup_layout != "v2":
        raise InvalidRequest("this host has no cgroup v2", field=f"{_FIELD}.unified")
    for key in wanted.unified:
        if _UNIFIED_KEY.fullmatch(key) is None:
            raise InvalidRequest(f"{key!r} is not the name of a cgroup file", field=f"{_FIELD}.unified")
    return dict(wanted.unified)
