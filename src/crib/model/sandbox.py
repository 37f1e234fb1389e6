"""The pod sandbox: what RunPodSandbox asks for and what we keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from crib.model.ids import HandlerName, SandboxId
from crib.model.resource_change import ResourceChange


class NamespaceMode(IntEnum):
    """Whose namespace is used (CRI NamespaceMode, same numbers)."""

    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class Protocol(IntEnum):
    """Transport of a port mapping (CRI Protocol, same numbers)."""

    TCP = 0
    UDP = 1
    SCTP = 2


class ProfileType(IntEnum):
    """Which seccomp or AppArmor profile (CRI SecurityProfile.ProfileType, same numbers)."""

    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


@dataclass(frozen=True, slots=True)
class IdMapping:
    """One range of a user namespace (user_namespaces(7))."""

    host_id: int
    container_id: int
    length: int

    def overlaps(self, other: IdMapping) -> bool:
        """Whether the two have an id of the node in common."""
        return self.host_id < other.host_id + other.length and other.host_id < self.host_id + self.length


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """CRI UserNamespace; `mode` NODE means none."""

    mode: NamespaceMode = NamespaceMode.NODE
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()

    def shared_with(self, other: UserNamespace) -> str:
        """`uids` or `gids` if both have ids of the node in common; empty if not."""
        for kind, ours, theirs in (("uids", self.uids, other.uids), ("gids", self.gids, other.gids)):
            if any(mine.overlaps(one) for mine in ours for one in theirs):
                return kind
        return ""


@dataclass(frozen=True, slots=True)
class NamespaceOptions:
    """CRI NamespaceOption. The pid default of the CRI is POD; the kubelet always sends a mode."""

    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""
    userns: UserNamespace | None = None


@dataclass(frozen=True, slots=True)
class SecurityProfile:
    """CRI SecurityProfile; `localhost_ref` is an absolute path (seccomp) or a profile name (AppArmor)."""

    kind: ProfileType
    localhost_ref: str = ""


@dataclass(frozen=True, slots=True)
class SelinuxOption:
    """CRI SELinuxOption."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """CRI LinuxContainerResources. 0 means not set, as the CRI says; bytes, shares, microseconds."""

    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    memory_limit_in_bytes: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: Mapping[str, int] = field(default_factory=dict)
    unified: Mapping[str, str] = field(default_factory=dict)
    memory_swap_limit_in_bytes: int = 0
    beyond: ResourceChange = ResourceChange()
    """Limits that the CRI has no field for, as node plugins have set them."""


def merged(current: Resources, change: Resources) -> Resources:
    """`current` with what `change` names: to an update, too, 0 and "" mean not set (CRI).

    A swap limit counts memory and swap together. If only the memory limit changes, the swap beyond it stays
    the same.
    """
    swap = change.memory_swap_limit_in_bytes
    if not swap:
        swap = current.memory_swap_limit_in_bytes
        before, after = current.memory_limit_in_bytes, change.memory_limit_in_bytes
        if swap > 0 and after:
            swap = after + max(swap - before, 0) if before > 0 and after > 0 else 0
    return Resources(
        cpu_period=change.cpu_period or current.cpu_period,
        cpu_quota=change.cpu_quota or current.cpu_quota,
        cpu_shares=change.cpu_shares or current.cpu_shares,
        memory_limit_in_bytes=change.memory_limit_in_bytes or current.memory_limit_in_bytes,
        oom_score_adj=change.oom_score_adj or current.oom_score_adj,
        cpuset_cpus=change.cpuset_cpus or current.cpuset_cpus,
        cpuset_mems=change.cpuset_mems or current.cpuset_mems,
        hugepage_limits={**current.hugepage_limits, **change.hugepage_limits},
        unified={**current.unified, **change.unified},
        memory_swap_limit_in_bytes=swap,
        beyond=change.beyond.over(current.beyond),
    )


@dataclass(frozen=True, slots=True)
class PodMetadata:
    """CRI PodSandboxMetadata: together these four name the sandbox."""

    name: str
    uid: str
    namespace: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """CRI DNSConfig: the lines of the pod's resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortMapping:
    """CRI PortMapping. `host_port` 0 means that no port of the host is used."""

    container_port: int
    host_port: int = 0
    protocol: Protocol = Protocol.TCP
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class PodSecurity:
    """CRI LinuxSandboxSecurityContext."""

    namespaces: NamespaceOptions = NamespaceOptions()
    selinux: SelinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: int = 0
    privileged: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """CRI PodSandboxConfig, validated. `log_directory` is an absolute path or empty."""

    metadata: PodMetadata
    hostname: str = ""
    log_directory: str = ""
    dns: DnsConfig | None = None
    """None leaves the pod the host's own resolv.conf."""
    port_mappings: tuple[PortMapping, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    security: PodSecurity = PodSecurity()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    overhead: Resources | None = None
    resources: Resources | None = None

    @property
    def host_network(self) -> bool:
        """Whether the pod lives in the node's network namespace."""
        return self.security.namespaces.network == NamespaceMode.NODE

    @property
    def user_namespace(self) -> UserNamespace | None:
        """The pod's own user namespace, or None when its ids are the node's."""
        userns = self.security.namespaces.userns
        return None if userns is None or userns.mode == NamespaceMode.NODE else userns

    @property
    def shares_pid(self) -> bool:
        """Whether the pod's containers share one pid namespace, and so need an infra process."""
        return self.security.namespaces.pid == NamespaceMode.POD


class SandboxState(StrEnum):
    """Where a sandbox is in its life; `lifecycle` says which moves are legal."""

    CREATING = "creating"
    READY = "ready"
    NOT_READY = "not-ready"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that outlives us: the pid alone may be used again, pid and start time may not.

    `start_time` is field 22 of /proc/PID/stat (clock ticks since boot).
    """

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """What attaching a pod to its network gave. `addresses[0]` is the primary one, without prefix length."""

    addresses: tuple[str, ...] = ()
    interface: str = "eth0"
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """All that is kept of a sandbox; every path derives from `id` (see `paths`)."""

    id: SandboxId
    config: SandboxConfig
    handler: HandlerName
    state: SandboxState
    created_at: int
    boot_id: str
    reason: str = ""
    """Why the sandbox is NOT_READY, when that was not asked for."""
    network: NetworkAttachment | None = None
    resolver: DnsConfig | None = None
    """The name servers that the pod's network wants asked first, if the config has no DNS of its own."""
    infra: ProcessIdentity | None = None
    """The process of this host that the pod cannot do without; None where there is none. Of pods that share
    their pids it is the one that holds their pid namespace (catatonit)."""
    released: bool = False
    """Containers ended, network detached, namespaces unpinned: stopping again has nothing to do."""
    overhead: Resources | None = None
    """In force since the last UpdatePodSandboxResources; None: what the config says."""
    resources: Resources | None = None
    """The same, of the pod's containers together."""
    abandoned: bool = False
    """Abandoned: its name is free, and it is removed as soon as possible."""
