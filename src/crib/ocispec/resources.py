"""Limits: CRI LinuxContainerResources as the OCI has them."""

from __future__ import annotations

import re

import msgspec

from crib.model.errors import InvalidRequest, below
from crib.model.facts import HostFacts
from crib.model.sandbox import Resources
from crib.ocispec.classes import block_io
from crib.ocispec.devices import device_rules
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.limits import cpu_weight, limit_files
from crib.wire import oci_runtime as oci

PAGE_SIZE = re.compile(r"[0-9]{1,6}[KMG]B")
CPU_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
PIDS_FILE = "pids.max"
UNIFIED_KEY = re.compile(r"[a-z0-9_]+\.[A-Za-z0-9_.]+")


def resources(inputs: ContainerInputs) -> oci.Resources:
    """The `resources` of config.json."""
    with below("linux.resources"):
        limits = cgroup_limits(inputs.config.resources, inputs.host)
    pids = limits.pids
    if inputs.pids_limit and pids is None and PIDS_FILE not in limits.unified:
        pids = oci.Pids(inputs.pids_limit)
    limits = msgspec.structs.replace(
        limits, devices=device_rules(inputs), pids=pids, block_io=block_io(inputs)
    )
    return by_host(limits, inputs.host)


def by_host(limits: oci.Resources, host: HostFacts) -> oci.Resources:
    """Limits of the OCI as a runtime is to be given them on this host, for a cgroup that it makes."""
    limits = msgspec.structs.replace(limits, cpu=_at_create(limits.cpu))
    if "hugetlb" not in host.cgroup_controllers:
        limits = msgspec.structs.replace(limits, hugepage_limits=())
    if limits.memory is not None and limits.memory.swap is not None and not host.swap_accounting:
        limits = msgspec.structs.replace(limits, memory=_without_swap(limits.memory))
    if host.cgroup_layout == "v2":
        return _by_file(limits)
    unified = dict(limits.unified)
    pids = _pids(unified.pop(PIDS_FILE, "")) or limits.pids
    return msgspec.structs.replace(limits, pids=pids, unified=unified)


def _by_file(limits: oci.Resources) -> oci.Resources:
    """Shares and swap as the files that they are in cgroup v2, and nowhere else.

    Runtimes draw the curve from shares to weight differently, and crun 1.21 gives systemd memory and swap
    together as the limit of swap: the next reload of systemd would write what they made of it.
    """
    files = dict(limit_files(limits, "v2"))
    memory, cpu, unified = limits.memory, limits.cpu, dict(limits.unified)
    if memory is not None and memory.swap is not None:
        unified.setdefault("memory.swap.max", files["memory.swap.max"])
        memory = _without_swap(memory)
    if cpu is not None and cpu.shares is not None:
        unified.setdefault("cpu.weight", files["cpu.weight"])
        cpu = msgspec.structs.replace(cpu, shares=None)
        cpu = None if cpu == oci.Cpu() else cpu
    return msgspec.structs.replace(limits, memory=memory, cpu=cpu, unified=unified)


def _without_swap(memory: oci.Memory) -> oci.Memory | None:
    memory = msgspec.structs.replace(memory, swap=None)
    return None if memory == oci.Memory() else memory


def _at_create(cpu: oci.Cpu | None) -> oci.Cpu | None:
    """A new cgroup has no quota. crun (1.8) writes -1 as 2⁶⁴-1, which the kernel refuses."""
    if cpu is None or cpu.quota is None or cpu.quota >= 0:
        return cpu
    rest = msgspec.structs.replace(cpu, quota=None)
    return None if rest == oci.Cpu() else rest


def cgroup_limits(wanted: Resources, host: HostFacts) -> oci.Resources:
    """The part that can be changed later too (no devices); what is not set stays away.

    InvalidRequest, naming the field of `wanted`, for what this host cannot keep.
    """
    unified = _unified(wanted, host)
    if host.cgroup_layout == "v2" and wanted.cpu_shares > 0:
        unified.setdefault("cpu.weight", str(cpu_weight(wanted.cpu_shares)))
    return oci.Resources(
        memory=_memory(wanted, host),
        cpu=_cpu(wanted),
        pids=_pids(unified.pop(PIDS_FILE, "")) if host.cgroup_layout != "v2" else None,
        hugepage_limits=_hugepages(wanted, host),
        unified=unified,
    )


def _memory(wanted: Resources, host: HostFacts) -> oci.Memory | None:
    limit, swap = wanted.memory_limit_in_bytes, wanted.memory_swap_limit_in_bytes
    if limit < -1 or swap < -1:
        raise InvalidRequest(
            "a limit cannot be negative, except -1 (no limit)", field="memory_limit_in_bytes"
        )
    if swap > 0 and (limit > swap or limit < 0):
        raise InvalidRequest(
            f"{swap} (memory and swap together) is less than the memory limit {limit}",
            field="memory_swap_limit_in_bytes",
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
        if value and CPU_LIST.fullmatch(value) is None:
            raise InvalidRequest(f"{value!r} is not a list such as 0-2,5", field=name)
    if wanted.cpu_shares < 0 or wanted.cpu_period < 0:
        raise InvalidRequest("shares and periods cannot be negative", field="cpu_shares")
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
        if PAGE_SIZE.fullmatch(size) is None or limit < 0:
            raise InvalidRequest(f"{size!r}: {limit} is not a limit", field="hugepage_limits")
        # The kubelet sends a limit of 0 for every size; where there is no controller only that can be
        # promised.
        if "hugetlb" in host.cgroup_controllers:
            limits.append(oci.HugepageLimit(page_size=size, limit=limit))
        elif limit:
            raise InvalidRequest("this host has no hugetlb controller", field="hugepage_limits")
    return tuple(limits)


def _unified(wanted: Resources, host: HostFacts) -> dict[str, str]:
    # The limit of processes has no other field, and its file is the same in both versions.
    if wanted.unified.keys() - {PIDS_FILE} and host.cgroup_layout != "v2":
        raise InvalidRequest("this host has no cgroup v2", field="unified")
    for key in wanted.unified:
        # `cgroup.` files are no limits: they move, freeze and kill.
        if UNIFIED_KEY.fullmatch(key) is None or key.startswith("cgroup."):
            raise InvalidRequest(f"{key!r} is not a limit of a cgroup", field="unified")
    return dict(wanted.unified)


def _pids(text: str) -> oci.Pids | None:
    if not text:
        return None
    if text == "max":
        return oci.Pids(-1)
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise InvalidRequest(f"{text!r} is neither a number nor max", field=f"unified[{PIDS_FILE!r}]")
    return oci.Pids(int(text))
