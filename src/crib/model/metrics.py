"""The metrics of pods and containers (CRI MetricDescriptor and Metric), from the reading they are taken of.

A family has the name, the type and the labels that cAdvisor gives it (lib/metrics/prometheus.go), so that
what was made for a kubelet's /metrics/cadvisor goes on working. `crib.model.metric_families` has them all.
The CRI's values are whole numbers: seconds are cut off, and what cannot be read has no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, TypeAlias

from crib.model.container import ContainerRecord
from crib.model.image import FilesystemUsage
from crib.model.sandbox import Resources, SandboxRecord
from crib.model.stats import CgroupUsage, FilesystemRoom, InterfaceUsage

BASE_LABELS = ("container", "id", "image", "name", "namespace", "pod")
"""Every family has these labels first: name of the container, its cgroup, the name of its image, its id, the
namespace and name of its pod."""
NETWORK_CONTAINER = "POD"
"""Stands in the label `container` of what a pod's containers share: its network."""


class MetricKind(IntEnum):
    """CRI MetricType, same numbers."""

    COUNTER = 0
    GAUGE = 1


class MetricGroup(StrEnum):
    """What may be chosen by `statistics.pod_metrics`; the names are those of CRI-O's included_pod_metrics."""

    CPU = "cpu"
    DISK = "disk"
    DISK_IO = "diskIO"
    HUGETLB = "hugetlb"
    MEMORY = "memory"
    NETWORK = "network"
    OOM = "oom"
    PRESSURE = "pressure"
    PROCESS = "process"
    SPEC = "spec"
    ALWAYS = ""
    """No choice: also there when nothing is chosen."""


GROUPS = tuple(group.value for group in MetricGroup if group is not MetricGroup.ALWAYS)


class Of(StrEnum):
    """What a family's samples are of."""

    CONTAINER = "container"
    CGROUP = "container, pod"
    """Also of the pod's cgroup: all containers together, with what the kernel charges to the pod alone."""
    POD = "pod"
    """Of the pod, under the name NETWORK_CONTAINER."""


class Metered(NamedTuple):
    """One reading of a container or of a pod. Times are ns since the epoch."""

    at: int
    started_at: int
    cgroup: CgroupUsage
    limits: Resources | None = None
    """In force, as the CRI asked for them; of a container."""
    writable_layer: FilesystemUsage | None = None
    room: FilesystemRoom | None = None
    interfaces: tuple[InterfaceUsage, ...] = ()

    def part(self, path: tuple[str, ...]) -> Any:
        """What the path leads to; None where there is none."""
        part: Any = self
        for name in path:
            if part is None:
                break
            part = getattr(part, name)
        return part


class PodMetrics(NamedTuple):
    """A pod's reading and those of its containers that run or wait to be started."""

    sandbox: SandboxRecord
    pod: Metered
    containers: tuple[tuple[ContainerRecord, Metered], ...]


Labelled: TypeAlias = tuple[tuple[str, ...], int]
"""A value with those of the family's own labels."""
Value: TypeAlias = int | Iterable[Labelled] | None
"""Of a family without labels of its own, of one with some, or of nothing that could be read."""


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric. `path` leads from a reading to the part that `value` is taken of."""

    name: str
    kind: MetricKind
    help: str
    group: MetricGroup
    of: Of
    path: tuple[str, ...]
    value: Callable[[Any], Value]
    own_labels: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Keys of all labels, in the order of a sample's values."""
        return (*BASE_LABELS, *self.own_labels)
