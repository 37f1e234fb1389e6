"""A container's `resources`. Requests and limits become cgroup values by the same rules as in a kubelet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.manifest import quantity, shapes
from crib.stubs.runtime.v1.api_pb2 import LinuxContainerResources

if TYPE_CHECKING:
    from crib.manifest.fields import ManifestNode


@dataclass(frozen=True, slots=True)
class Amounts:
    """CPU in thousandths of a core, memory in bytes; None: not said."""

    cpu_request: int | None = None
    cpu_limit: int | None = None
    memory_request: int | None = None
    memory_limit: int | None = None

    @property
    def guaranteed(self) -> bool:
        return (
            bool(self.cpu_limit and self.memory_limit)
            and self.cpu_request == self.cpu_limit
            and self.memory_request == self.memory_limit
        )

    @property
    def best_effort(self) -> bool:
        return not any((self.cpu_request, self.cpu_limit, self.memory_request, self.memory_limit))


def amounts(container: ManifestNode) -> Amounts:
    """A container's `resources`; a request that is not given is its limit, as an API server fills it in."""
    node = container.child("resources")
    if node is None:
        return Amounts()
    node.check(shapes.RESOURCES)
    requests, limits = _amounts(node, "requests"), _amounts(node, "limits")
    for name, limit in limits.items():
        if requests.setdefault(name, limit) > limit:
            node.part("requests").wrong(name, "is greater than the limit")
    return Amounts(requests.get("cpu"), limits.get("cpu"), requests.get("memory"), limits.get("memory"))


def _amounts(resources: ManifestNode, which: str) -> dict[str, int]:
    node = resources.part(which)
    found: dict[str, int] = {}
    for name in node.names():
        try:
            value = quantity.parse_quantity(node.raw(name))
        except ValueError as error:
            node.wrong(name, str(error))
            continue
        if name == "cpu":
            found[name] = quantity.milli(value)
        elif name == "memory":
            found[name] = quantity.whole(value)
        elif name == "ephemeral-storage" and which == "requests":
            node.notes.add(node.at(name), "no effect: there is no scheduler here")
        elif name == "ephemeral-storage":
            node.notes.add(node.at(name), "not enforced")
        else:
            node.wrong(name, "not supported: crib run knows cpu and memory")
    return found


def linux_resources(
    found: Amounts, memory_capacity: int, *, guaranteed: bool, best_effort: bool
) -> LinuxContainerResources:
    """The cgroup's values. Both flags are of the whole pod (its quality of service)."""
    return LinuxContainerResources(
        cpu_shares=quantity.cpu_shares(found.cpu_request or 0),
        cpu_period=quantity.PERIOD if found.cpu_limit else 0,
        cpu_quota=quantity.cpu_quota(found.cpu_limit or 0),
        memory_limit_in_bytes=found.memory_limit or 0,
        oom_score_adj=quantity.oom_score_adj(
            found.memory_request or 0, memory_capacity, guaranteed=guaranteed, best_effort=best_effort
        ),
    )
