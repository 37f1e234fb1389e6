"""Which plugin has set what of which container: two of them may not set the same (NRI, FieldOwners)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from crib.model.edits import ContainerEdits
from crib.model.resource_change import ResourceChange


class Contradiction(Exception):
    """Two plugins want something that cannot be both, or one wants what it may not; the message says who."""


class Field(IntEnum):
    """What plugins can change, with the names and numbers of the protocol (enum Field)."""

    Annotations = 1
    Mounts = 2
    OciHooks = 3
    Devices = 4
    CdiDevices = 5
    Env = 6
    Args = 7
    MemLimit = 8
    MemReservation = 9
    MemSwapLimit = 10
    MemKernelLimit = 11
    MemTCPLimit = 12
    MemSwappiness = 13
    MemDisableOomKiller = 14
    MemUseHierarchy = 15
    CPUShares = 16
    CPUQuota = 17
    CPUPeriod = 18
    CPURealtimeRuntime = 19
    CPURealtimePeriod = 20
    CPUSetCPUs = 21
    CPUSetMems = 22
    PidsLimit = 23
    HugepageLimits = 24
    BlockioClass = 25
    RdtClass = 26
    CgroupsUnified = 27
    CgroupsPath = 28
    OomScoreAdj = 29
    Rlimits = 30
    IoPriority = 31
    SeccompPolicy = 32
    Namespace = 33
    Sysctl = 34
    LinuxNetDevices = 35
    LinuxSched = 36
    RdtClosID = 37
    RdtSchemata = 38
    RdtEnableMonitoring = 39
    MemoryPolicy = 40


LIMITS: Mapping[str, Field] = MappingProxyType(
    {
        "memory_limit": Field.MemLimit,
        "memory_reservation": Field.MemReservation,
        "memory_swap": Field.MemSwapLimit,
        "memory_kernel": Field.MemKernelLimit,
        "memory_kernel_tcp": Field.MemTCPLimit,
        "memory_swappiness": Field.MemSwappiness,
        "memory_disable_oom_killer": Field.MemDisableOomKiller,
        "memory_use_hierarchy": Field.MemUseHierarchy,
        "cpu_shares": Field.CPUShares,
        "cpu_quota": Field.CPUQuota,
        "cpu_period": Field.CPUPeriod,
        "cpu_realtime_runtime": Field.CPURealtimeRuntime,
        "cpu_realtime_period": Field.CPURealtimePeriod,
        "cpuset_cpus": Field.CPUSetCPUs,
        "cpuset_mems": Field.CPUSetMems,
        "pids_limit": Field.PidsLimit,
        "hugepage_limits": Field.HugepageLimits,
        "unified": Field.CgroupsUnified,
        "blockio_class": Field.BlockioClass,
        "rdt_class": Field.RdtClass,
    }
)
"""Fields of ResourceChange."""
_RDT = (Field.RdtClosID, Field.RdtSchemata, Field.RdtEnableMonitoring)


@dataclass(frozen=True, slots=True)
class OwnedField:
    """A field, or one key of a field that has many."""

    field: Field
    key: str = ""

    def __str__(self) -> str:
        return f"{self.field.name} {self.key}".rstrip()


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has set something, or has removed it and not set it again."""

    plugin: str
    removed: bool = False


@dataclass(slots=True)
class Owners:
    """Of one container. Plugins are called as they are known: `10-name`."""

    claims: dict[OwnedField, Owner] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    """Hooks of several plugins run one after the other: no contradiction."""

    def take(self, plugin: str, edits: ContainerEdits) -> None:
        """What the plugin removes is nobody's, what it sets is its own. Contradiction changes nothing."""
        claims = list(claims_of(edits))
        # To remove what no plugin has set says nothing to those that come later.
        removed = set(removals(edits)) & {*self.claims, *claims}
        self._take(plugin, claims, removed)
        if edits.hooks:
            self.hooks = (*self.hooks, plugin)

    def take_limits(self, plugin: str, change: ResourceChange) -> None:
        """The same of an update. Limits cannot be removed."""
        self._take(plugin, list(claims_of_limits(change)), set())

    def owner(self, field: Field, key: str = "") -> str:
        """Who has set it last; empty: nobody."""
        owner = self.claims.get(OwnedField(field, key))
        return owner.plugin if owner is not None and not owner.removed else ""

    def of(self, field: Field) -> dict[str, str]:
        """Who has set, or removed, which key."""
        return {claim.key: owner.plugin for claim, owner in self.claims.items() if claim.field == field}

    def _take(self, plugin: str, claims: list[OwnedField], removed: set[OwnedField]) -> None:
        found: dict[OwnedField, Owner] = {}
        for claim in claims:
            if claim in found:
                raise Contradiction(f'plugin "{plugin}" set {claim} twice')
            other = self.claims.get(claim)
            if other is not None and claim not in removed and other != Owner(plugin, removed=True):
                raise Contradiction(f'plugins "{plugin}" and "{other.plugin}" both tried to set {claim}')
            found[claim] = Owner(plugin)
        self.claims |= {claim: Owner(plugin, removed=True) for claim in removed} | found


def removals(edits: ContainerEdits) -> Iterator[OwnedField]:
    """What the edits take away. A removed namespace is a change of its own, which is claimed."""
    removed = edits.removed
    yield from _keys(Field.Annotations, removed.annotations)
    yield from _keys(Field.Mounts, removed.mounts)
    yield from _keys(Field.Env, removed.env)
    yield from _keys(Field.Devices, removed.devices)
    yield from _keys(Field.Sysctl, removed.sysctls)
    yield from _keys(Field.LinuxNetDevices, removed.net_devices)
    if removed.args:
        yield OwnedField(Field.Args)
    if removed.rdt:
        yield from map(OwnedField, _RDT)


def claims_of(edits: ContainerEdits) -> Iterator[OwnedField]:
    """What the edits set, in the order in which NRI looks at it. Hooks and device rules belong to nobody."""
    yield from _keys(Field.Annotations, (key for key, _ in edits.annotations))
    yield from _keys(Field.Mounts, (mount.destination for mount in edits.mounts))
    yield from _keys(Field.Env, (key for key, _ in edits.env))
    if edits.args:
        yield OwnedField(Field.Args)
    yield from _keys(Field.Devices, (device.path for device in edits.devices))
    yield from claims_of_limits(edits.resources)
    simple = {
        Field.CgroupsPath: bool(edits.cgroups_path),
        Field.OomScoreAdj: edits.oom_score_adj is not None,
        Field.IoPriority: edits.io_priority is not None,
        Field.SeccompPolicy: edits.seccomp is not None,
        Field.LinuxSched: edits.scheduler is not None,
        Field.RdtClosID: edits.rdt.clos_id is not None,
        Field.RdtSchemata: edits.rdt.schemata is not None,
        Field.RdtEnableMonitoring: edits.rdt.enable_monitoring is not None,
        Field.MemoryPolicy: edits.memory_policy is not None,
    }
    yield from (OwnedField(field) for field, is_set in simple.items() if is_set)
    types = (*edits.removed.namespaces, *(one.type for one in edits.namespaces))
    yield from _keys(Field.Namespace, dict.fromkeys(types))
    yield from _keys(Field.Sysctl, (key for key, _ in edits.sysctls))
    yield from _keys(Field.LinuxNetDevices, (name for name, _ in edits.net_devices))
    yield from _keys(Field.Rlimits, (limit.type for limit in edits.rlimits))
    yield from _keys(Field.CdiDevices, edits.cdi_devices)


def claims_of_limits(change: ResourceChange) -> Iterator[OwnedField]:
    """The same of limits."""
    for name, of in LIMITS.items():
        value = getattr(change, name)
        if isinstance(value, Mapping):
            yield from _keys(of, value)
        elif value is not None:
            yield OwnedField(of)


def _keys(field: Field, keys: Iterable[str]) -> Iterator[OwnedField]:
    return (OwnedField(field, key) for key in keys)
