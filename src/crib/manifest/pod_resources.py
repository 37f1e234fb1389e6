"""What a pod's containers ask for and may use together. Pure: the rules are a kubelet's.

Sources: component-helpers (PodRequests, PodLimits), kubelet (ResourceConfigForPod,
GetContainerOOMScoreAdjust), API server (defaults of pod-level resources).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crib.manifest import quantity
from crib.manifest.resources import Amounts, linux_resources
from crib.stubs.runtime.v1.api_pb2 import LinuxContainerResources

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Portion:
    """One container's part; `init`: it ends before those that come later start, so it is no sidecar."""

    amounts: Amounts
    init: bool = False


def pod_amounts(shares: Iterable[Portion]) -> Amounts:
    """Of all containers, in the order in which they start.

    Of init containers the greatest counts, each with the sidecars before it. A container without a limit
    leaves the pod without one.
    """
    given = list(shares)

    def together(name: str) -> int | None:
        values = [(getattr(share.amounts, name), share.init) for share in given]
        if name.endswith("_limit") and not all(value for value, _ in values):
            return None
        running = most = 0
        for value, init in values:
            most = max(most, running + (value or 0))
            running += 0 if init else value or 0
        return most or None

    return Amounts(
        together("cpu_request"), together("cpu_limit"), together("memory_request"), together("memory_limit")
    )


def of_linux(limits: LinuxContainerResources) -> Amounts:
    """What the cgroup's values stand for; the CRI does not say what memory was asked for."""
    shares, quota = limits.cpu_shares, limits.cpu_quota
    return Amounts(
        cpu_request=-(-shares * 1000 // 1024) if shares > quantity.MIN_SHARES else None,
        cpu_limit=-(-quota * 1000 // (limits.cpu_period or quantity.PERIOD)) if quota > 0 else None,
        memory_limit=limits.memory_limit_in_bytes if limits.memory_limit_in_bytes > 0 else None,
    )


@dataclass(slots=True)
class PodAmounts:
    """Of a manifest: `own` is the pod's `spec.resources`, as it is written."""

    own: Amounts | None = None
    shares: dict[str, Portion] = field(default_factory=dict)

    def of_pod(self) -> Amounts:
        """What the pod's cgroup is made of. A pod-level value counts instead of the containers' sum."""
        asked = pod_amounts(self.shares.values())
        own = self.own
        if own is None:
            return asked
        return Amounts(
            _first(own.cpu_request, asked.cpu_request, own.cpu_limit),
            _first(own.cpu_limit, asked.cpu_limit),
            _first(own.memory_request, asked.memory_request, own.memory_limit),
            _first(own.memory_limit, asked.memory_limit),
        )

    def of_container(self, name: str, memory_capacity: int) -> LinuxContainerResources:
        """A container's cgroup. Without a limit of its own it has the pod's. `memory_capacity` in bytes."""
        share = self.shares.get(name, Portion(Amounts()))
        found, own = share.amounts, self.own or Amounts()
        limited = replace(
            found,
            cpu_limit=_first(found.cpu_limit, own.cpu_limit),
            memory_limit=_first(found.memory_limit, own.memory_limit),
        )
        return linux_resources(limited, self._oom_score(found.memory_request or 0, memory_capacity))

    def _oom_score(self, memory_request: int, memory_capacity: int) -> int:
        """By the pod's quality of service. What the pod asks for beyond its containers is shared evenly."""
        judged = [share.amounts for share in self.shares.values()] if self.own is None else [self.of_pod()]
        beyond = 0
        if self.own is not None:
            asked = pod_amounts(self.shares.values()).memory_request or 0
            beyond = max(0, (self.of_pod().memory_request or 0) - asked) // max(1, len(self.shares))
        return quantity.oom_score_adj(
            memory_request + beyond,
            memory_capacity,
            guaranteed=all(one.guaranteed for one in judged),
            best_effort=all(one.best_effort for one in judged),
        )


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
