"""What the administrator can set; `crib.config` reads it from TOML, strictly.

A field or a table that is LIVE changes with a reload; the others take a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from crib.model.checkpoint_settings import CheckpointSettings
from crib.model.docker_settings import DockerSettings
from crib.model.image_settings import ImageSettings
from crib.model.keys import CHANGING, LIVE, PART, AtLeast, Between, Form, Is, OneOf, Path, PathOrNone
from crib.model.metrics import GROUPS
from crib.model.nri_settings import NriSettings
from crib.model.shim_settings import ShimSettings
from crib.model.vm_settings import VmSettings
from crib.model.volume_settings import VolumeSettings


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The daemon's log, on standard error."""

    level: Annotated[str, OneOf(("debug", "info", "warning", "error", "critical"))] = "info"
    """debug, info, warning, error or critical."""
    format: Annotated[str, OneOf(("text", "json"))] = "text"
    """text, or json: one object a line."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Who changed what: a line of JSON for each call that changes something."""

    enabled: bool = False
    """Write it. A call that changes something then waits until it is known who is connected."""
    file: PathOrNone = ""
    """For root only. Empty: DATA/audit.jsonl."""
    size_max: Annotated[int, AtLeast(64 << 10)] = 16 << 20
    """Bytes after which the file is set aside (as FILE.1, FILE.2, …) for a new one."""
    files: Annotated[int, Between(1, 1000)] = 5
    """Files that are kept, the one in use included."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Which network pods get."""

    mode: Annotated[str, Is(Form.HANDLER)] = "cni"
    """`cni` (under a kubelet), `bridge` (built in, needs no plugin), or an entry point of crib.networks."""
    bridge: Annotated[str, Is(Form.INTERFACE)] = "crib0"
    """Name of the built-in bridge, at most 15 characters."""
    subnet: Annotated[str, Is(Form.SUBNET)] = "10.203.0.0/16"
    """Range of the built-in bridge's addresses; the first address is the gateway."""
    subnet6: Annotated[str, Is(Form.SUBNET6, or_empty=True)] = ""
    """IPv6 range of the built-in bridge; empty: pods get no IPv6 address."""
    mtu: Annotated[int, AtLeast(0)] = 0
    """Bytes; 0: the MTU of the interface with the host's default route."""
    native_ranges: tuple[Annotated[str, Is(Form.IP_RANGE)], ...] = ()
    """Ranges that pods of the built-in bridge reach with their own addresses, without masquerading. The other
    side needs a route back, as between the pods of several nodes."""
    isolation: Annotated[str, OneOf(("none", "pods"))] = "none"
    """`pods`: pods of the built-in bridge reach each other only through published host ports; or `none`."""
    dns_domain: Annotated[str, Is(Form.DOMAIN, or_empty=True)] = ""
    """Domain in which the built-in bridge resolves names of pods (NAME.NAMESPACE.DOMAIN); empty: none."""
    cni_conf_dir: Path = "/etc/cni/net.d"
    """Directory of the CNI configuration. Its files are used in lexical order."""
    cni_bin_dirs: Annotated[tuple[str, ...], LIVE] = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
    """Directories that are searched for CNI plugins, in this order."""
    cni_networks: Annotated[int, AtLeast(0), LIVE] = 1
    """How many networks of that directory each pod is attached to, in the order of the files; 0: all."""
    cni_default_network: Annotated[str, LIVE] = ""
    """Name of the network that comes first (eth0) and that pods wait for; empty: that of the first file."""
    cni_conf_template: Annotated[PathOrNone, LIVE] = ""
    """Template of a configuration, in Go's syntax as in containerd. cribd writes the result to `cni_conf_dir`
    when the kubelet sends the node's pod range; empty: none."""
    plugin_timeout: Annotated[float, AtLeast(0.1), LIVE] = 60.0
    """Seconds for one plugin's ADD, DEL or CHECK. A GC gets at most 10 of them."""
    ip_preference: Annotated[str, OneOf(("cni", "ipv4", "ipv6")), LIVE] = "cni"
    """Which address comes first in a pod's status: `ipv4`, `ipv6`, or `cni` (the plugins' order)."""
    ready_timeout: Annotated[float, AtLeast(0), LIVE] = 5.0
    """Seconds that RunPodSandbox waits for a network that is not ready before it fails."""
    check_interval: Annotated[float, AtLeast(0), LIVE] = 0.0
    """Seconds between two checks of all pods' networks; 0: only on demand."""
    repair: Annotated[bool, LIVE] = False
    """Repair a pod's network when a periodic check finds it damaged."""


@dataclass(frozen=True, slots=True)
class StreamingSettings:
    """The server of Exec, Attach and PortForward."""

    address: Annotated[str, Is(Form.IP_ADDRESS)] = "127.0.0.1"
    """IP address to listen on. The kubelet connects to it and forwards kubectl's streams."""
    port: Annotated[int, AtLeast(0)] = 0
    """Port to listen on; 0: any free port at each start."""
    tls: Annotated[str, OneOf(("off", "files", "self-signed"))] = "off"
    """off, files (`cert_file` and `key_file`), or self-signed (a certificate made at each start)."""
    cert_file: PathOrNone = ""
    """Certificate in PEM, with its chain; read again when it changes."""
    key_file: PathOrNone = ""
    """Its key in PEM; read again when it changes."""
    client_ca_file: PathOrNone = ""
    """Authorities in PEM; clients must show a certificate signed by one of them. Empty: they need none."""
    token_time: Annotated[float, AtLeast(1), LIVE] = 60.0
    """Seconds for which the URL of a stream is valid. It works once."""
    creation_timeout: Annotated[float, AtLeast(0.1), LIVE] = 30.0
    """Seconds in which a client must send its request and open the streams that it asked for."""
    idle_timeout: Annotated[float, AtLeast(0), LIVE] = 4 * 3600.0
    """Seconds without a byte in either direction after which a connection is closed; 0: never."""
    max_connections: Annotated[int, AtLeast(1), LIVE] = 1000
    """Connections of clients with a valid token. A separate limit holds for all others."""
    max_streams: Annotated[int, AtLeast(4), LIVE] = 1000
    """Streams of one connection; a forwarded connection takes two."""
    kill_abandoned: Annotated[bool, LIVE] = False
    """End the command of an exec when its client disconnects; otherwise only its standard input ends."""
    attach_replay: Annotated[int, AtLeast(0), LIVE] = 0
    """Bytes of a container's latest output that an attach begins with; 0: new output only."""


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """What the daemon counts of itself, for Prometheus."""

    listen: Annotated[str, Is(Form.LISTEN, or_empty=True)] = "unix"
    """`unix` (STATE/metrics.sock), `unix:PATH`, ADDRESS:PORT, or empty: nobody can read them."""
    remote: bool = False
    """`listen` may be an address that other machines reach. There is no encryption and no password."""


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Spans of calls and their stages, for an OpenTelemetry collector. Needs crib's extra `otel`."""

    endpoint: Annotated[str, Is(Form.COLLECTOR, or_empty=True)] = ""
    """HOST:PORT or unix:PATH of a collector that takes OTLP by gRPC, without encryption. Empty: off."""
    sampling_rate_per_million: Annotated[int, Between(0, 1_000_000)] = 0
    """Of the calls that come without a trace. One that a caller traces is always traced on."""


DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
"""What a container has by default: the same set as in docker."""


@dataclass(frozen=True, slots=True)
class NodeMount:
    """A path of the host that containers see, unless they have something else at `destination`."""

    source: Path = ""
    """A file or directory of the host."""
    destination: Path = ""
    """Where containers see it."""
    read_only: bool = True
    """Read-only in containers. What is mounted below the source keeps its own mode."""


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """What pods and containers get unless they ask for something else. A handler's values override these."""

    capabilities: Annotated[tuple[Annotated[str, Is(Form.CAPABILITY)], ...], LIVE] = DEFAULT_CAPABILITIES
    """Without CAP_. A container can add and drop capabilities."""
    devices: Annotated[tuple[Annotated[str, Is(Form.DEVICE)], ...], LIVE] = ()
    """Device nodes of the host as HOST[:CONTAINER[:PERMISSIONS]]; permissions are any of r, w and m."""
    env: Annotated[Mapping[Annotated[str, Is(Form.VARIABLE)], str], LIVE] = field(default_factory=dict)
    """Environment variables, unless the image or the container sets them."""
    mounts: Annotated[tuple[NodeMount, ...], LIVE] = ()
    """Paths of the host that containers see, unless they have a volume there. Each is a table:"""
    seccomp_profile: PathOrNone = ""
    """File with the profile for RuntimeDefault (OCI seccomp JSON); empty: the built-in profile."""
    shm_size: Annotated[int, Is(Form.SHM_SIZE), LIVE] = 64 << 20
    """Bytes of a pod's /dev/shm."""
    sysctls: Annotated[
        Mapping[Annotated[str, Is(Form.SYSCTL)], Annotated[str, Is(Form.SYSCTL_VALUE)]], LIVE
    ] = field(default_factory=dict)
    """Sysctls of a pod's own network and IPC namespaces."""
    timezone: Annotated[str, Is(Form.TIMEZONE, or_empty=True), LIVE] = ""
    """A name such as Europe/Berlin, or `local` for /etc/localtime; empty: that of the image."""
    ulimits: Annotated[
        Mapping[Annotated[str, Is(Form.ULIMIT)], Annotated[str, Is(Form.ULIMIT_VALUE)]], LIVE
    ] = field(default_factory=dict)
    """By name, such as nofile: SOFT:HARD, or one value for both. A value is a number or `unlimited`."""
    umask: Annotated[str, Is(Form.UMASK, or_empty=True), LIVE] = ""
    """Octal; empty: the runtime's default (022)."""
    writable_cgroups: Annotated[str, OneOf(("systemd", "always", "never")), LIVE] = "systemd"
    """Which containers may write to their cgroup tree: those of `systemd`, `always` (all) or `never`."""


@dataclass(frozen=True, slots=True)
class StatisticsSettings:
    """What is told of the use of pods and containers, beside the CRI's statistics."""

    pod_metrics: tuple[Annotated[str, OneOf(GROUPS)], ...] = GROUPS
    """Groups of the CRI's pod metrics that there are; fewer make shorter answers."""
    pod_metrics_period: Annotated[float, Between(0, 300)] = 0.0
    """Seconds for which the metrics of a pod are told again before they are read anew; 0: none."""


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """One RuntimeClass handler."""

    path: str = ""
    """The OCI runtime's program; empty: the handler's name, found on PATH."""
    args: tuple[str, ...] = ()
    """Global arguments put before the runtime's command."""
    annotations: Annotated[tuple[str, ...], LIVE] = ()
    """Keys of pod and container annotations that are passed to the OCI spec; `*` matches any characters."""
    base_spec: PathOrNone = ""
    """File with an OCI spec (JSON). Its fields hold where crib sets none; empty: none."""
    privileged_without_host_devices: Annotated[bool, LIVE] = False
    """Give a privileged container only the devices that it asks for."""
    cni_conf_dir: PathOrNone = ""
    """Directory of the CNI configuration for this handler's pods; empty: `network.cni_conf_dir`."""
    containers: ContainerDefaults = ContainerDefaults()
    """The node's defaults, with the handler's changes."""
    kind: str = "oci"
    """How it runs containers: `oci`, by an OCI runtime and conmon, `shim`, by a shim of containerd's kind,
    `vm`, each pod in a virtual machine, `docker`, by Docker's Engine, or an entry point of crib.handlers."""
    sandbox_container: Annotated[str, OneOf(("detect", "always", "never"))] = "detect"
    """Whether each pod begins with a container that holds the others and runs nothing: `always`, `never`, or
    `detect` (with gVisor's runsc, which wants one, and with every shim but runc.v2)."""
    shim: Annotated[ShimSettings, PART] = ShimSettings()
    vm: VmSettings = VmSettings()
    """Of kind `vm`: the machines."""
    docker: DockerSettings = DockerSettings()
    """Of kind `docker`: the Engine."""


@dataclass(frozen=True, slots=True)
class HookSettings:
    """A lifecycle hook: Python functions of another project before and after verbs."""

    name: Annotated[str, Is(Form.HANDLER)] = ""
    """Name of an entry point in the group crib.lifecycle_hooks."""
    timeout: Annotated[float, Between(0.1, 60)] = 5.0
    """Seconds for one call."""
    on_error: Annotated[str, OneOf(("refuse", "log"))] = "refuse"
    """What a verb does if the function before it fails: refuse, or log (and go on)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration; defaults are those of a node under a kubelet."""

    data: Path = "/var/lib/crib"
    """Directory of what must survive a reboot: records, image layers, writable layers."""
    state: Path = "/run/crib"
    """Directory of what need not: socket, namespaces, mounts, bundles. It belongs on a tmpfs."""
    socket: PathOrNone = ""
    """Path of the CRI socket; empty: STATE/crib.sock."""
    socket_group: str = "crib"
    """Group that may use the socket; root's if the group does not exist."""
    log: Annotated[LogSettings, LIVE] = LogSettings()
    audit: Annotated[AuditSettings, LIVE] = AuditSettings()
    network: NetworkSettings = NetworkSettings()
    images: ImageSettings = ImageSettings()
    volumes: VolumeSettings = VolumeSettings()
    streaming: StreamingSettings = StreamingSettings()
    metrics: Annotated[MetricsSettings, LIVE] = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    statistics: Annotated[StatisticsSettings, LIVE] = StatisticsSettings()
    nri: NriSettings = NriSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    containers: ContainerDefaults = ContainerDefaults()
    default_handler: str = "crun"
    """Handler of pods that name none."""
    handlers: Annotated[Mapping[Annotated[str, Is(Form.HANDLER)], HandlerSettings], CHANGING] = field(
        default_factory=lambda: {"crun": HandlerSettings()}
    )
    hooks: tuple[HookSettings, ...] = ()
    """Lifecycle hooks, in this order. Each is a table:"""
    conmon: str = "conmon"
    """The monitor's program: a path, or a name found on PATH."""
    catatonit: str = "catatonit"
    """The program that holds a shared pid namespace."""
    cgroup_root: Path = "/crib"
    """Parent cgroup of pods that name none."""
    cgroup_driver: Annotated[str, OneOf(("cgroupfs", "systemd"))] = "cgroupfs"
    """cgroupfs, or systemd (slices and scopes, made by systemd). A kubelet asks for it and uses the same."""
    cgroup_favordynmods: bool = False
    """Give the cgroup v2 tree the mount option favordynmods (kernel 6.0): cgroups change faster, forks and
    exits of all processes are a little slower. Nobody takes it away again."""
    pids_limit: Annotated[int, AtLeast(0), LIVE] = 0
    """Processes and threads of one container; 0: no limit of ours (a kubelet limits pods)."""
    cdi_spec_dirs: Annotated[tuple[Path, ...], LIVE] = ("/etc/cdi", "/var/run/cdi")
    """Directories of CDI specs. If two define the same device, the later directory wins."""
    oci_hooks_dirs: Annotated[tuple[Path, ...], LIVE] = ()
    """Directories of oci-hooks(5) files. A file in a later directory replaces one of the same name."""
    blockio_config_file: Annotated[PathOrNone, LIVE] = ""
    """File (YAML) with the classes of block I/O that annotations of pods may name; empty: there are none."""
    device_ownership_from_security_context: Annotated[bool, LIVE] = False
    """Give device nodes to run_as_user and run_as_group if those are set."""
    missing_host_path: Annotated[str, OneOf(("create", "error")), LIVE] = "create"
    """create (as other runtimes do) or error (as the CRI says)."""
    image_volumes: Annotated[str, OneOf(("bind", "mkdir", "ignore")), LIVE] = "bind"
    """What to make of an image's VOLUMEs: bind (a directory each, with its content), mkdir or ignore."""
    log_size_max: Annotated[int, AtLeast(0), LIVE] = 0
    """Bytes after which the log of a running container is rotated; 0: never (a kubelet does it)."""
    log_files: Annotated[int, AtLeast(2), LIVE] = 5
    """Files of one container's log that are kept when crib rotates, including the one in use."""
    kept_pods: bool = True
    """Keep up pods of `crib run --restart`. false: such requests are refused, and those on disk stay as they
    are. Pods of a kubelet are never touched."""
    verb_timeout: Annotated[float, AtLeast(0.1), LIVE] = 240.0
    """Seconds that one call of the OCI runtime or monitor may take before it is killed."""
    making_verbs: Annotated[int, AtLeast(0), LIVE] = 0
    """RunPodSandbox, CreateContainer and StartContainer calls at once; more wait. 0: by number of CPUs."""
    nice: Annotated[int, Between(-20, 0)] = -10
    """Nice value of the daemon's own threads, -20 to -1; programs it starts have 0. 0: unchanged."""

    @property
    def socket_path(self) -> str:
        return self.socket or f"{self.state}/crib.sock"

    @property
    def metrics_place(self) -> str:
        """Where metrics are read, as `unix:PATH` or ADDRESS:PORT; empty: nowhere."""
        listen = self.metrics.listen
        return f"unix:{self.state}/metrics.sock" if listen == "unix" else listen
