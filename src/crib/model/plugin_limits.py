"""Limits as node plugins name them, and as the CRI does."""

from __future__ import annotations

from dataclasses import replace

from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources, merged

_SAME = {
    "cpu_period": "cpu_period",
    "cpu_quota": "cpu_quota",
    "cpu_shares": "cpu_shares",
    "cpuset_cpus": "cpuset_cpus",
    "cpuset_mems": "cpuset_mems",
    "memory_limit": "memory_limit_in_bytes",
    "memory_swap": "memory_swap_limit_in_bytes",
}
"""Fields that both have: theirs, and the CRI's."""


def change_of(resources: Resources) -> ResourceChange:
    """What a client asks for, as plugins are asked about it. To the CRI, 0 and "" mean not set."""
    known = {name: value for name, cri in _SAME.items() if (value := getattr(resources, cri))}
    return ResourceChange(
        **known, hugepage_limits=dict(resources.hugepage_limits), unified=dict(resources.unified)
    )


def changed(current: Resources, change: ResourceChange) -> Resources:
    """The limits with the change. What the CRI has no field for is in `Resources.beyond`.

    Classes of block I/O and RDT are no limits of a cgroup, and none of this.
    """
    known = {cri: value for name, cri in _SAME.items() if (value := getattr(change, name)) is not None}
    asked = Resources(**known, hugepage_limits=dict(change.hugepage_limits), unified=dict(change.unified))
    none = dict.fromkeys(_SAME, None)
    rest = replace(change, **none, hugepage_limits={}, unified={}, blockio_class=None, rdt_class=None)
    return merged(current, replace(asked, beyond=rest))
