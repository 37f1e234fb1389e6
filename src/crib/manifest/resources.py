"""The `resources` of containers and pods. They become cgroup values by the same rules as in a kubelet."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    found = given_amounts(container) or Amounts()
    return replace(
        found,
        cpu_request=found.cpu_limit if found.cpu_request is None else found.cpu_request,
        memory_request=found.memory_limit if found.memory_request is None else found.memory_request,
    )


def given_amounts(owner: ManifestNode) -> Amounts | None:
    """The `resources` of a container or of a pod, as they are written; None without any."""
    node = owner.child("resources")
    if node is None:
        return None
    node.check(shapes.RESOURCES)
    requests, limits = _amounts(node.part("requests")), _amounts(node.part("limits"))
    for name, limit in limits.items():
        if requests.get(name, limit) > limit:
            node.part("requests").wrong(name, "is greater than the limit")
    return Amounts(requests.get("cpu"), limits.get("cpu"), requests.get("memory"), limits.get("memory"))


def overhead(spec: ManifestNode) -> Amounts | None:
    """A pod's `overhead`: asked for and at most, as a kubelet takes it. None without one."""
    if not spec.has("overhead"):
        return None
    found = _amounts(spec.part("overhead"))
    cpu, memory = found.get("cpu"), found.get("memory")
    return Amounts(cpu, cpu, memory, memory)


def _amounts(node: ManifestNode) -> dict[str, int]:
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
        elif name == "ephemeral-storage":
            node.notes.add(node.at(name), "not enforced")
        else:
            node.wrong(name, "not supported: crib run knows cpu and memory")
    return found


def linux_resources(found: Amounts, oom_score: int = 0) -> LinuxContainerResources:
    """The cgroup's values. Who asks for no CPU has the least weight."""
    return LinuxContainerResources(
        cpu_shares=quantity.cpu_shares(found.cpu_request or 0),
        cpu_period=quantity.PERIOD if found.cpu_limit else 0,
        cpu_quota=quantity.cpu_quota(found.cpu_limit or 0),
        memory_limit_in_bytes=found.memory_limit or 0,
        oom_score_adj=oom_score,
    )
