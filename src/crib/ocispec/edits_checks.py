"""What edits may ask for on this host and of this handler: refused by name, not left out quietly."""

from __future__ import annotations

from collections.abc import Iterator

from crib.model.edits import ContainerEdits
from crib.model.errors import Broken
from crib.model.facts import HandlerFacts, HostFacts
from crib.model.resource_change import ResourceChange
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.resources import CPU_LIST, PAGE_SIZE, PIDS_FILE, UNIFIED_KEY

_V1_ONLY = (
    "memory_kernel",
    "memory_kernel_tcp",
    "memory_swappiness",
    "memory_disable_oom_killer",
    "memory_use_hierarchy",
    "cpu_realtime_runtime",
    "cpu_realtime_period",
)
"""Limits that no file of cgroup v2 holds (kernel, admin-guide/cgroup-v2)."""


def check_edits(edits: ContainerEdits, inputs: ContainerInputs) -> None:
    """Broken, naming the origin and the field, for what cannot be had here."""
    class_ = edits.resources.blockio_class
    problems = [*limit_problems(edits.resources, inputs.host), *_unknown(edits, inputs.handler)]
    if class_ and class_ not in inputs.blockio_classes:
        problems.append(f"resources.blockio_class: this node has no block I/O class {class_!r}")
    if edits.rdt.clos_id in (".", "..") or "/" in (edits.rdt.clos_id or ""):
        problems.append(f"rdt.clos_id: {edits.rdt.clos_id!r} is not the name of a class")
    if problems:
        raise Broken(f"{edits.origin} asks for what cannot be done: {'; '.join(problems)}")
    for injected in edits.injected:
        check_edits(injected, inputs)


def limit_problems(change: ResourceChange, host: HostFacts) -> Iterator[str]:
    """What this host cannot keep of the limits, each with its field."""
    for name in ("cpuset_cpus", "cpuset_mems"):
        text = getattr(change, name)
        if text and CPU_LIST.fullmatch(text) is None:
            yield f"resources.{name}: {text!r} is not a list such as 0-2,5"
    for size, limit in change.hugepage_limits.items():
        if PAGE_SIZE.fullmatch(size) is None:
            yield f"resources.hugepage_limits: {size!r} is not a size such as 2MB"
        elif limit and "hugetlb" not in host.cgroup_controllers:
            yield "resources.hugepage_limits: this host has no hugetlb controller"
    for key in change.unified:
        # `cgroup.` files are no limits: they move, freeze and kill.
        if UNIFIED_KEY.fullmatch(key) is None or key.startswith("cgroup."):
            yield f"resources.unified: {key!r} is not a limit of a cgroup"
    if host.cgroup_layout == "v2":
        for name in _V1_ONLY:
            value = getattr(change, name)
            if value is not None and value is not False:
                yield f"resources.{name}: cgroup v2 has no such limit"
    elif change.unified.keys() - {PIDS_FILE}:
        yield "resources.unified: this host has no cgroup v2"


def _unknown(edits: ContainerEdits, handler: HandlerFacts) -> Iterator[str]:
    """Fields that this handler's runtime would leave out without a word."""
    asked = {
        "scheduler": edits.scheduler is not None and bool(edits.scheduler.policy),
        "io_priority": edits.io_priority is not None and bool(edits.io_priority.class_),
        "net_devices": bool(edits.net_devices),
        "memory_policy": edits.memory_policy is not None,
        "rdt": bool(edits.resources.rdt_class) or edits.rdt != type(edits.rdt)(),
    }
    for field, wanted in asked.items():
        if wanted and field in handler.unknown_fields:
            yield f"{field}: handler {handler.name} ({handler.program} {handler.version}) does not know it"
