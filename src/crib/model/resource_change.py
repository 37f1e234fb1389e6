"""A change of a container's limits, with all that an NRI plugin can ask for (LinuxResources)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """None, and a key that is missing, leave a limit as it is. Bytes, shares and microseconds, as the OCI
    runtime specification has them (config-linux.md, Control groups).
    """

    memory_limit: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    """Memory and swap together."""
    memory_kernel: int | None = None
    memory_kernel_tcp: int | None = None
    memory_swappiness: int | None = None
    memory_disable_oom_killer: bool | None = None
    memory_use_hierarchy: bool | None = None
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_realtime_runtime: int | None = None
    cpu_realtime_period: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids_limit: int | None = None
    hugepage_limits: Mapping[str, int] = field(default_factory=dict)
    """By page size, such as `2MB`."""
    unified: Mapping[str, str] = field(default_factory=dict)
    """Files of cgroup v2 and what to write to them."""
    blockio_class: str | None = None
    rdt_class: str | None = None

    def over(self, other: ResourceChange) -> ResourceChange:
        """Both, and this one where they differ."""
        own = {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}
        own["hugepage_limits"] = {**other.hugepage_limits, **self.hugepage_limits}
        own["unified"] = {**other.unified, **self.unified}
        return replace(other, **own)

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return any(getattr(self, one.name) not in (None, {}) for one in fields(self))
