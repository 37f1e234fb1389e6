"""Limits in a spec, changed by edits: first as the OCI has them, at the end as this host has them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from crib.model.resource_change import ResourceChange
from crib.ocispec.annotations import limit_annotations
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.resources import by_host
from crib.wire import oci_runtime as oci

_MEMORY = {
    "reservation": "memory_reservation",
    "swap": "memory_swap",
    "kernel": "memory_kernel",
    "kernel_tcp": "memory_kernel_tcp",
    "swappiness": "memory_swappiness",
    "disable_oom_killer": "memory_disable_oom_killer",
    "use_hierarchy": "memory_use_hierarchy",
}
_CPU = {
    "shares": "cpu_shares",
    "quota": "cpu_quota",
    "period": "cpu_period",
    "realtime_runtime": "cpu_realtime_runtime",
    "realtime_period": "cpu_realtime_period",
    "cpus": "cpuset_cpus",
    "mems": "cpuset_mems",
}
"""Field of the OCI's part to that of the change."""
_FILES = {
    "memory_limit": ("memory.max", "memory.swap.max"),
    "memory_swap": ("memory.swap.max",),
    "memory_reservation": ("memory.low",),
    "cpu_shares": ("cpu.weight",),
    "cpu_quota": ("cpu.max",),
    "cpu_period": ("cpu.max",),
    "cpuset_cpus": ("cpuset.cpus",),
    "cpuset_mems": ("cpuset.mems",),
    "pids_limit": ("pids.max",),
}
"""The files of cgroup v2 that hold what a field says."""


def with_limits(limits: oci.Resources, change: ResourceChange) -> oci.Resources:
    """The limits with the change. A memory limit sets the limit with swap, too, as NRI has it.

    What an author has written for a file of cgroup v2 gives way to a field that says the same. Classes of
    block I/O and RDT are none of this.
    """
    replaced = set(_replaced(change))
    kept = {key: value for key, value in limits.unified.items() if key not in replaced}
    pages = {page.page_size: page for page in limits.hugepage_limits}
    pages |= {size: oci.HugepageLimit(size, limit) for size, limit in change.hugepage_limits.items()}
    return msgspec.structs.replace(
        limits,
        memory=_memory(limits.memory or oci.Memory(), change),
        cpu=_cpu(limits.cpu or oci.Cpu(), change),
        pids=limits.pids if change.pids_limit is None else oci.Pids(change.pids_limit),
        hugepage_limits=tuple(pages.values()),
        unified=kept | dict(change.unified),
    )


def _replaced(change: ResourceChange) -> Iterator[str]:
    for name, files in _FILES.items():
        if getattr(change, name) is not None:
            yield from files
    for size in change.hugepage_limits:
        yield f"hugetlb.{size}.max"


def _memory(memory: oci.Memory, change: ResourceChange) -> oci.Memory | None:
    if change.memory_limit:
        memory = msgspec.structs.replace(memory, limit=change.memory_limit, swap=change.memory_limit)
    memory = msgspec.structs.replace(memory, **_set(change, _MEMORY))
    return None if memory == oci.Memory() else memory


def _cpu(cpu: oci.Cpu, change: ResourceChange) -> oci.Cpu | None:
    cpu = msgspec.structs.replace(cpu, **_set(change, _CPU))
    return None if cpu == oci.Cpu() else cpu


def _set(change: ResourceChange, names: dict[str, str]) -> dict[str, int | bool | str]:
    values = {ours: getattr(change, theirs) for ours, theirs in names.items()}
    return {ours: value for ours, value in values.items() if value is not None}


def settled(inputs: ContainerInputs, made: oci.Spec, spec: oci.Spec) -> oci.Spec:
    """The spec with its limits as this host has them, where edits have changed those of `made`.

    The annotations that tell systemd of limits follow.
    """
    before, after = made.linux.resources or oci.Resources(), spec.linux.resources or oci.Resources()
    classes = [edits.resources.blockio_class for edits in inputs.edits]
    named = [name for name in classes if name is not None]
    if named:
        block_io = inputs.blockio_classes[named[-1]] if named[-1] else None
        after = msgspec.structs.replace(after, block_io=block_io)
    if after == msgspec.structs.replace(before, devices=after.devices):
        return spec
    limits = by_host(after, inputs.host)
    old, new = limit_annotations(inputs, before), limit_annotations(inputs, limits)
    annotations = {
        key: value for key, value in spec.annotations.items() if old.get(key) != value or key in new
    }
    for key, value in new.items():
        if annotations.get(key) in (None, old.get(key)):
            annotations[key] = value
    linux = msgspec.structs.replace(spec.linux, resources=limits)
    return msgspec.structs.replace(spec, annotations=annotations, linux=linux)
