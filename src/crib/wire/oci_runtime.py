"""The OCI runtime's documents: config.json, `state` and process.json (OCI runtime spec 1.0 to
1.3).

Only the fields that we write or read. A field that has its default is left out of the JSON.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Shape(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The root of all shapes: camelCase on the wire, unknown fields ignored when read."""


class User(Shape, frozen=True):
    """config.md, User: numbers only; names are looked up before."""

    uid: int = msgspec.field(name="uid")
    gid: int = msgspec.field(name="gid")
    additional_gids: tuple[int, ...] = ()
    umask: int | None = None


class Capabilities(Shape, frozen=True):
    """config.md, capabilities: names with the CAP_ prefix."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Shape, frozen=True):
    """config.md, POSIX process, rlimits: `type` as in setrlimit(2)."""

    type: str
    hard: int
    soft: int


class Scheduler(Shape, frozen=True):
    """config.md, Linux process, scheduler: names as in sched_setattr(2); nanoseconds."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IoPriority(Shape, frozen=True):
    """config.md, Linux process, ioPriority: class and level as in ioprio_set(2)."""

    class_: str = msgspec.field(name="class")
    priority: int = 0


class Process(Shape, frozen=True):
    """config.md, Process; also the whole of process.json for `exec`."""

    user: User
    args: tuple[str, ...]
    cwd: str
    terminal: bool = False
    env: tuple[str, ...] = ()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None


class Root(Shape, frozen=True):
    """config.md, Root."""

    path: str
    readonly: bool = False


class Mount(Shape, frozen=True):
    """config.md, Mounts."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


class Namespace(Shape, frozen=True):
    """config-linux.md, Namespaces: without a path a new one is made."""

    type: str
    path: str = ""


class IdMapping(Shape, frozen=True, omit_defaults=False):
    """config-linux.md, User namespace mappings."""

    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int = msgspec.field(name="size")


class Device(Shape, frozen=True):
    """config-linux.md, Devices: a node to make in the container."""

    path: str
    type: str
    major: int
    minor: int
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(Shape, frozen=True, omit_defaults=False):
    """config-linux.md, Allowed Device list; null major or minor means all."""

    allow: bool
    access: str = "rwm"
    type: str = "a"
    major: int | None = None
    minor: int | None = None


class Memory(Shape, frozen=True):
    """config-linux.md, Memory: bytes."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None


class Cpu(Shape, frozen=True):
    """config-linux.md, CPU: shares, microseconds, lists of CPUs and memory nodes."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""


class HugepageLimit(Shape, frozen=True):
    """config-linux.md, Huge page limits: bytes of one page size."""

    page_size: str
    limit: int


class Pids(Shape, frozen=True):
    """config-linux.md, PIDs: tasks; -1 is no limit."""

    limit: int


class WeightDevice(Shape, frozen=True):
    """config-linux.md, Block IO: the weight of one device."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Shape, frozen=True):
    """config-linux.md, Block IO: bytes or operations a second of one device."""

    major: int
    minor: int
    rate: int


class BlockIo(Shape, frozen=True):
    """config-linux.md, Block IO."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        default=(), name="throttleReadIOPSDevice"
    )
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        default=(), name="throttleWriteIOPSDevice"
    )


class Resources(Shape, frozen=True):
    """config-linux.md, Control groups."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    unified: dict[str, str] = {}


class SeccompArg(Shape, frozen=True, omit_defaults=False):
    """config-linux.md, Seccomp: a condition on one argument."""

    index: int
    value: int
    op: str
    value_two: int = 0


_NOTIFY = "SCMP_ACT_NOTIFY"


class SeccompRule(Shape, frozen=True):
    """config-linux.md, Seccomp: what to do on these system calls."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(Shape, frozen=True):
    """config-linux.md, Seccomp."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()


class NetDevice(Shape, frozen=True):
    """config-linux.md, Network devices: what an interface of the host is called in the container."""

    name: str = ""


class IntelRdt(Shape, frozen=True):
    """config-linux.md, IntelRdt."""

    clos_id: str = msgspec.field(default="", name="closID")
    schemata: tuple[str, ...] = ()
    enable_monitoring: bool = False


class MemoryPolicy(Shape, frozen=True):
    """config-linux.md, Memory policy: names as in set_mempolicy(2)."""

    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


class Linux(Shape, frozen=True):
    """config-linux.md."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    cgroups_path: str = ""
    resources: Resources | None = None
    devices: tuple[Device, ...] = ()
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    sysctl: dict[str, str] = {}
    net_devices: dict[str, NetDevice] = {}
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None


class Hook(Shape, frozen=True):
    """config.md, POSIX-platform Hooks: one program; `timeout` in seconds."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(Shape, frozen=True):
    """config.md, POSIX-platform Hooks: programs by the moment at which the runtime starts them."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Spec(Shape, frozen=True):
    """config.json of a bundle."""

    oci_version: str
    process: Process
    root: Root
    linux: Linux
    hostname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}


class State(Shape, frozen=True):
    """runtime.md, State: what `state` prints."""

    id: str
    status: str
    pid: int = 0


def encode(document: Shape) -> bytes:
    """The document as JSON; ValueError when a text in it is not Unicode (JSON carries nothing else)."""
    return msgspec.json.encode(document)


def decode_state(data: bytes) -> State:
    """What `state` printed; ValueError when it is something else."""
    return msgspec.json.decode(data, type=State)


def decode_spec(data: bytes) -> Spec:
    """A config.json; ValueError when it is none. A null stands for a field that is not there."""
    try:
        return msgspec.json.decode(data, type=Spec)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), type=Spec)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return [_without_nulls(child) for child in value] if isinstance(value, list) else value


def decode_process(data: bytes) -> Process:
    """The `process` of a config.json; ValueError when there is none."""
    return msgspec.json.decode(data, type=_SpecProcess).process


def decode_linux(data: bytes) -> Linux:
    """The `linux` of a config.json, also of one that is not whole; ValueError when it is none."""
    try:
        return msgspec.json.decode(data, type=_SpecLinux).linux
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), type=_SpecLinux).linux


def decode_seccomp(data: bytes) -> Seccomp:
    """A seccomp profile in the OCI's shape; ValueError (with the place) when it is not one."""
    profile = msgspec.json.decode(data, type=Seccomp)
    check_agent(profile)
    return profile


def check_agent(profile: Seccomp) -> None:
    """ValueError for a profile that asks an agent about system calls and does not say where that one listens.

    config-linux.md, Seccomp, listenerPath. crun lets such calls fail without a word.
    """
    asks = _NOTIFY in (profile.default_action, *(rule.action for rule in profile.syscalls))
    if asks and not profile.listener_path.startswith("/"):
        raise ValueError(
            f"{_NOTIFY} asks an agent, and listenerPath is {profile.listener_path!r}: it is no absolute path"
        )


class _SpecLinux(Shape, frozen=True):
    linux: Linux = Linux()


class _SpecProcess(Shape, frozen=True):
    process: Process
