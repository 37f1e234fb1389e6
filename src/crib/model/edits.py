"""Changes of a container in addition to what its request, its image and the settings say.

CDI devices and hook files change containers (Container Device Interface, SPEC.md, "CDI edits"; oci-hooks(5)),
and so do NRI plugins (ContainerAdjustment). Here is what they have in common, each with its origin. Names of
namespaces, policies, flags and signals are those of the OCI runtime specification.
"""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.resource_change import ResourceChange

Pairs = tuple[tuple[str, str], ...]
"""Names and values, each name once."""


@dataclass(frozen=True, slots=True)
class AddedDevice:
    """A device node of the host; `kind` is `b`, `c`, `u` or `p`."""

    path: str
    """Where it shall be in the container."""
    kind: str
    major: int
    minor: int
    permissions: str = "rwm"
    mode: int | None = None
    uid: int | None = None
    """None: the container's user, as CDI has it; so with `gid`."""
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class AddedMount:
    """A mount as the OCI runtime specification has it (config.md, Mounts)."""

    destination: str
    source: str
    type: str = "bind"
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddedHook:
    """A program that the runtime starts at some moment (config.md, POSIX-platform Hooks)."""

    stage: str
    """As the specification calls it: `prestart`, `createRuntime`, …"""
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None
    """Seconds."""


@dataclass(frozen=True, slots=True)
class SetRlimit:
    """A limit of the first process (config.md, rlimits; setrlimit(2))."""

    type: str
    hard: int
    soft: int


@dataclass(frozen=True, slots=True)
class SetNamespace:
    """A namespace to make, or to join where there is a path (config-linux.md, Namespaces)."""

    type: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class SetScheduler:
    """How the first process is scheduled (config.md, scheduler; sched_setattr(2)); nanoseconds."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True)
class SetIoPriority:
    """The first process's class and level of I/O (config.md, ioPriority); an empty class takes it away."""

    class_: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SetMemoryPolicy:
    """Where its memory comes from (config-linux.md, Memory policy; set_mempolicy(2))."""

    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RdtChange:
    """Parts of config-linux.md, IntelRdt; None leaves as it is."""

    clos_id: str | None = None
    schemata: tuple[str, ...] | None = None
    enable_monitoring: bool | None = None


@dataclass(frozen=True, slots=True)
class AddedDeviceRule:
    """A rule of the devices controller (config-linux.md, Allowed Device list); None stands for all."""

    allow: bool
    kind: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


@dataclass(frozen=True, slots=True)
class Removals:
    """What is taken away before anything is set. What is not there is removed already."""

    annotations: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    """Destinations."""
    env: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    """Paths in the container."""
    namespaces: tuple[str, ...] = ()
    """Types; without one the container has the runtime's."""
    sysctls: tuple[str, ...] = ()
    net_devices: tuple[str, ...] = ()
    """Names on the host."""
    args: bool = False
    """What others have made of the command is replaced knowingly."""
    rdt: bool = False


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """All that one of them changes in one container."""

    origin: str
    """Who it is from, in words for people: `CDI vendor.com/gpu=0`, `NRI 10-topology`."""
    env: Pairs = ()
    devices: tuple[AddedDevice, ...] = ()
    mounts: tuple[AddedMount, ...] = ()
    hooks: tuple[AddedHook, ...] = ()
    groups: tuple[int, ...] = ()
    """Supplementary groups of the first process."""
    removed: Removals = Removals()
    annotations: Pairs = ()
    args: tuple[str, ...] = ()
    """The whole command; empty leaves it."""
    rlimits: tuple[SetRlimit, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    """Qualified names."""
    injected: tuple[ContainerEdits, ...] = ()
    """What those bring, once they are found on the host."""
    resources: ResourceChange = ResourceChange()
    device_rules: tuple[AddedDeviceRule, ...] = ()
    """After all others of the devices controller."""
    cgroups_path: str = ""
    oom_score_adj: int | None = None
    io_priority: SetIoPriority | None = None
    scheduler: SetScheduler | None = None
    seccomp: bytes | None = None
    """Instead of the container's seccomp profile: JSON in the OCI's shape (config-linux.md, Seccomp)."""
    namespaces: tuple[SetNamespace, ...] = ()
    sysctls: Pairs = ()
    net_devices: Pairs = ()
    """Names of interfaces on the host, and their names in the container (empty: the same)."""
    rdt: RdtChange = RdtChange()
    memory_policy: SetMemoryPolicy | None = None
