"""What is known of the host, a handler and a root file system: read once, then passed to pure recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Found out once, when the daemon starts."""

    kernel: str
    boot_id: str
    architecture: str
    """As OCI names it: amd64, arm64."""
    cgroup_layout: str
    """`v1`, `hybrid` (v1 controllers and an empty v2 tree) or `v2`."""
    cgroup_controllers: tuple[str, ...]
    capabilities: tuple[str, ...]
    """CAP_… names in the daemon's bounding set: none other can be given to a container."""
    oom_score_adj: int
    """The daemon's own. Without CAP_SYS_RESOURCE no process may go below it (proc(5))."""
    may_lower_oom: bool
    apparmor: bool
    selinux: bool
    seccomp: bool
    idmapped_mounts: bool
    open_files: tuple[int, int]
    """RLIMIT_NOFILE, soft and hard, that the daemon was started with."""
    memory_bytes: int
    swap_accounting: bool
    cgroup_delegation: bool = False
    """Whether cgroup v2 is mounted with nsdelegate."""
    cgroup_favordynmods: bool = False
    """Whether it is mounted with favordynmods."""
    selinux_process: str = "system_u:system_r:container_t:s0"
    """Context of a container's processes, as the policy's file of container contexts says."""
    selinux_init: str = ""
    """The same of those whose first process is systemd; empty where the policy has none for them."""
    selinux_file: str = "system_u:object_r:container_file_t:s0"
    """Context of a container's files."""


NEW_FIELDS = frozenset(("scheduler", "io_priority", "net_devices", "rdt", "memory_policy"))
"""Fields of the OCI spec that not every runtime knows."""


@dataclass(frozen=True, slots=True)
class HandlerFacts:
    """What one handler says that it can do (its `features` command, or a probe)."""

    name: str
    program: str
    version: str
    oci_version: str
    """The `ociVersion` that specs for it carry."""
    recursive_read_only: bool
    user_namespaces: bool
    idmapped_mounts: bool
    recursive_binds: bool = True
    """Recursive bind mounts are that in a user namespace too (crun before 1.9: not)."""
    sandbox_container: bool = False
    """Each of its pods begins with a container that holds the others and runs nothing."""
    own_kernel: bool = False
    """The containers of a pod run together on a kernel of their own (gVisor): they are no processes of this
    host, which limits and measures the pod as a whole."""
    network_inside: bool = False
    """That kernel has the pod's addresses: no socket of the pod's namespace reaches what listens there."""
    forwards_ports: bool = False
    """The runtime connects to a port of that kernel."""
    systemd: int = 0
    """Version of the systemd that makes its scopes; 0 where it makes none."""
    unknown_fields: frozenset[str] = frozenset()
    """Of `NEW_FIELDS`, those that its runtime would leave out of a container without a word."""
    monitor: str = ""
    """The program that watches its containers."""
    monitor_version: str = ""
    kind: str = ""
    """Setting `handlers.NAME.kind`."""
    exec: bool = True
    """Commands run in its containers."""
    attach: bool = True
    """Clients are attached to the streams of its containers."""
    statistics: str = "cgroup"
    """Who measures containers: their `cgroup`, or the `runtime`."""
    checkpoints: bool = False
    """Its kind makes checkpoints of containers."""
    checkpoint_problem: str = ""
    """What on this host keeps it from that; empty if nothing."""
    criu: str = ""
    """Version of the program that makes them."""
    machine: str = ""
    """What its pods' virtual machines are, for people; empty where it makes none."""
    retired: bool = False
    """It was taken out of the configuration, and only looks after what it has made."""
    problem: str = ""
    """What on this host keeps the handler from running containers, and what to do; empty if nothing."""

    @property
    def abilities(self) -> tuple[str, ...]:
        """What its pods can have, for people."""
        words = {
            "exec": self.exec,
            "attach": self.attach,
            "user namespaces": self.user_namespaces,
            "id-mapped mounts": self.idmapped_mounts,
            "recursive read-only mounts": self.recursive_read_only,
            "network devices": "net_devices" not in self.unknown_fields,
            "RDT classes": "rdt" not in self.unknown_fields,
            "a sandbox container": self.sandbox_container,
            "a kernel of their own": self.own_kernel,
            "the network in that kernel": self.network_inside,
            "checkpoints": self.checkpoints and not self.checkpoint_problem,
        }
        return tuple(word for word, has in words.items() if has)


@dataclass(frozen=True, slots=True)
class RootfsFacts:
    """Read from a container's root without following a link out of it, each at most 1 MiB."""

    passwd: str
    group: str
    init: str = ""
    """Where the command leads, if it is called init or systemd: the file's name."""


@dataclass(frozen=True, slots=True)
class LayerMounting:
    """How layers are mounted here, as the probe found it."""

    method: str
    """`file` (file-backed EROFS), `loop` (EROFS on a loop device), `directory` (unpacked, without EROFS)."""
    block_size: int
    """512 or 4096; with `directory` that of the files that are unpacked."""
    direct_io: bool
    detail: str = ""
    label: str = ""
    """The SELinux context of layers' files with `file`, or empty. The kernel reads them on behalf of the
    reader of the layer: containers of all pods.
    """


@dataclass(frozen=True, slots=True)
class Readiness:
    """A condition of Status: ready, or the reason (one CamelCase word) and message why not."""

    ready: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class LoopLag:
    """How often the event loop was blocked for too long; in seconds together, and at the worst."""

    stalls: int = 0
    seconds: float = 0.0
    longest: float = 0.0


KILLED = "killed"
"""The kind for a program that SIGKILL did not end, because its own wait in the kernel does not end."""


@dataclass(frozen=True, slots=True)
class ThreadWait:
    """Blocking work that is under way in a thread."""

    kind: str
    """What may hang: `ours`, `foreign`, `programs`, `records`; `KILLED` is a program and no thread."""
    what: str
    owner: str
    seconds: float
    overdue: bool
    """No caller waits for it any more."""


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """The process that reads registries and archives."""

    pid: int | None = None
    """None while there is none."""
    requests: int = 0
    """Under way."""
    starts: int = 0
    deaths: int = 0
    """Those that nobody had asked for."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the daemon itself is."""

    lag: LoopLag = LoopLag()
    waiting: tuple[ThreadWait, ...] = ()
    programs: Mapping[str, int] = field(default_factory=dict)
    """Started since the daemon began, by name."""
