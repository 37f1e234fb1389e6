"""What the administrator can set; `crib.config` reads it from TOML, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The daemon's log, on standard error."""

    level: str = "info"
    """debug, info, warning, error or critical."""
    format: str = "text"
    """text, or json: one object a line."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Which network pods get."""

    mode: str = "cni"
    """`cni` (under a kubelet) or `bridge` (built in, needs no plugin)."""
    bridge: str = "crib0"
    """Name of the built-in bridge, at most 15 characters."""
    subnet: str = "10.203.0.0/16"
    """Range that the built-in bridge hands out; its first address is the gateway."""
    subnet6: str = ""
    """IPv6 range that the built-in bridge hands out besides; empty: pods get no IPv6 address."""
    mtu: int = 0
    """Bytes; 0 takes that of the interface that the host's default route leaves by."""
    native_ranges: tuple[str, ...] = ()
    """Ranges beyond the host that pods of the built-in bridge reach with their own addresses, without
    masquerade: where the way back is known, as of other nodes' pods."""
    isolation: str = "none"
    """`pods`: on the built-in bridge pods reach each other through published host ports only; or `none`."""
    dns_domain: str = ""
    """Domain in which the built-in bridge answers for pods' names (NAME.NAMESPACE.DOMAIN); empty: none."""
    cni_conf_dir: str = "/etc/cni/net.d"
    """Where the CNI configuration is, in files that count in lexical order."""
    cni_bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
    """Where CNI plugins are looked for, in this order."""
    cni_networks: int = 1
    """How many of the directory's networks each pod is attached to, in the order of the files; 0: all."""
    cni_default_network: str = ""
    """Name of the network that comes first (eth0); empty: that of the first file. A pod waits for it."""
    cni_conf_template: str = ""
    """Template (in Go's syntax, as containerd's) of a configuration that is written to `cni_conf_dir` when
    the kubelet tells the node's pod range; empty: none."""
    plugin_timeout: float = 60.0
    """Seconds for one plugin's ADD, DEL or CHECK; its GC has 10 of them at most."""
    ip_preference: str = "cni"
    """Which address comes first in a pod's status: `ipv4`, `ipv6`, or `cni` (the plugins' order)."""
    ready_timeout: float = 5.0
    """Seconds that RunPodSandbox waits for a network that is not ready before it fails."""
    check_interval: float = 0.0
    """Seconds between two checks of all pods' networks; 0: only on demand."""
    repair: bool = False
    """Make a pod's network anew when a periodic check finds it damaged."""


@dataclass(frozen=True, slots=True)
class StreamingSettings:
    """The server of Exec, Attach and PortForward."""

    address: str = "127.0.0.1"
    """IP address to listen on; the kubelet connects to it (and forwards kubectl's streams)."""
    port: int = 0
    """0 takes a free one at each start."""
    tls: str = "off"
    """off, files (`cert_file` and `key_file`), or self-signed (a certificate made at each start)."""
    cert_file: str = ""
    """Certificate in PEM, with its chain; read again when it changes."""
    key_file: str = ""
    """Its key in PEM; read again when it changes."""
    client_ca_file: str = ""
    """PEM; clients must show a certificate signed by one of these authorities. Empty: they need none."""
    token_time: float = 60.0
    """Seconds that the URL of a stream may be used (once)."""
    creation_timeout: float = 30.0
    """Seconds in which a client must have sent its request and opened the streams that it asked for."""
    idle_timeout: float = 4 * 3600.0
    """Seconds without a byte in either direction after which a connection is closed; 0: never."""
    max_connections: int = 1000
    """Connections of clients whose token was good; for others the server has a limit of its own."""
    max_streams: int = 1000
    """Streams of one connection; a forwarded connection takes two."""
    kill_abandoned: bool = False
    """End the command of an exec whose client has gone away; otherwise only its standard input ends."""
    attach_replay: int = 0
    """Bytes of a container's latest output that an attach begins with; 0: only what comes from then on."""


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
"""What a container has when nothing is said: the set that docker made customary."""


@dataclass(frozen=True, slots=True)
class NodeMount:
    """A path of the node that containers see, unless they have something else at `destination`."""

    source: str = ""
    """A file or directory of the host."""
    destination: str = ""
    """Where containers see it."""
    read_only: bool = True
    """Nobody writes there; what is mounted below the source keeps its own mode."""


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """What pods and containers get that ask for nothing else. A handler's own are laid over the node's."""

    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    """Without CAP_; a container adds to them and drops of them."""
    devices: tuple[str, ...] = ()
    """HOST[:CONTAINER[:PERMISSIONS]]: device nodes of the host, permissions of r, w and m."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that neither the image nor the container sets."""
    mounts: tuple[NodeMount, ...] = ()
    """Paths of the host that containers see, unless a volume of theirs is there. Each is a table:"""
    seccomp_profile: str = ""
    """File (JSON, as the OCI has it) that stands for RuntimeDefault; empty: our own profile."""
    shm_size: int = 64 << 20
    """Bytes of a pod's /dev/shm."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Of a pod's own network and IPC namespace."""
    timezone: str = ""
    """A name such as Europe/Berlin, or `local`: /etc/localtime; empty: the image's own."""
    ulimits: Mapping[str, str] = field(default_factory=dict)
    """By name (nofile): SOFT:HARD or one number for both; `unlimited` is one too."""
    umask: str = ""
    """Octal; empty: the runtime's own (022)."""
    writable_cgroups: str = "systemd"
    """Who may write to its cgroup tree: `systemd` (as a first process), `always` (everybody) or `never`."""


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """One RuntimeClass handler."""

    path: str = ""
    """The OCI runtime's program; empty means the handler's name, found on PATH."""
    args: tuple[str, ...] = ()
    """Global arguments put before the runtime's command."""
    annotations: tuple[str, ...] = ()
    """Keys of pod and container annotations that the OCI spec gets; `*` stands for any characters."""
    base_spec: str = ""
    """File with an OCI spec (JSON) whose fields hold where ours says nothing; empty: none."""
    privileged_without_host_devices: bool = False
    """A privileged container gets no device but those that it asks for."""
    cni_conf_dir: str = ""
    """Where the CNI configuration of this handler's pods is; empty means `network.cni_conf_dir`."""
    containers: ContainerDefaults = ContainerDefaults()
    """The node's, with what the handler says otherwise."""
    kind: str = "oci"
    """How it runs containers: `oci`, by an OCI runtime and conmon."""


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """One rule of the image policy; the first one whose `match` fits an image decides."""

    match: str = "*"
    """Pattern for the full name without tag and digest; `*` stands for any characters."""
    action: str = "accept"
    """accept, reject, digest (the name must have one) or signed (by one of `keys`)."""
    keys: tuple[str, ...] = ()
    """Files with public keys in PEM (cosign.pub)."""
    audit: bool = False
    """Only log what would be refused."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Pulls, imports and the store."""

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Registry host to base URLs tried in order before the registry itself."""
    insecure: tuple[str, ...] = ()
    """Registries spoken to over plain http."""
    hosts_dirs: tuple[str, ...] = ("/etc/crib/certs.d",)
    """Directories with HOST/hosts.toml in containerd's layout; the first one that has HOST counts."""
    registries_conf: str = ""
    """containers-registries.conf(5) to honour, with the .d directory beside it; empty: none."""
    auth_file: str = "/etc/crib/auth.json"
    """Credentials for the whole node in docker's config format; it may be missing."""
    parallel_layers: int = 3
    """Layers of one image that are fetched at once."""
    parallel_ranges: int = 3
    """Connections for one large layer, where the host serves ranges; 1 turns it off."""
    worker_user: str = "nobody"
    """Unprivileged user of the worker process."""
    worker_memory: int = 1 << 30
    """Bytes of address space beyond what its libraries take that the worker may use; 0 sets no limit."""
    pull_linger: float = 30.0
    """Seconds that a pull goes on after its last caller has gone."""
    stall_timeout: float = 60.0
    """Seconds in which at least `stall_bytes` must come, else a transfer fails over to the next host."""
    stall_bytes: int = 64 << 10
    """See `stall_timeout`."""
    min_rate: int = 8 << 10
    """Bytes a second that a host must bring of a layer, all in all, once `stall_timeout` is over; 0: any."""
    dead_host_time: float = 60.0
    """Seconds that a host which could not be reached is asked last."""
    bandwidth: int = 0
    """Bytes a second that all pulls together may take; 0: no limit."""
    partial_time: float = 24 * 3600.0
    """Seconds that the parts of an unfinished pull are kept to be resumed."""
    partial_bytes: int = 20 << 30
    """Bytes of such parts at most."""
    max_layer_bytes: int = 64 << 30
    """Uncompressed size of one layer at most."""
    max_ratio: int = 200
    """Uncompressed to compressed size at most (beyond the first 64 MiB)."""
    min_free: int = 256 << 20
    """Bytes of the file system that pulls and imports leave free."""
    block_size: int = 0
    """512, 4096, or 0 to choose by the probe."""
    mount_method: str = "auto"
    """auto, file, loop or directory."""
    pinned: tuple[str, ...] = ()
    """Patterns of image names that are never collected as garbage."""
    prepull: tuple[str, ...] = ()
    """Images pulled when the daemon starts, if they are not here."""
    import_dir: str = ""
    """Directory of archives that are imported when the daemon starts; empty: none."""
    gc_high: int = 0
    """Percent of the file system in use at which unused images are removed; 0: never (a kubelet does it)."""
    gc_low: int = 80
    """Percent down to which they are removed, the longest unused first."""
    gc_min_age: float = 120.0
    """Seconds that an image is kept at least after its last use."""
    policy: tuple[ImagePolicy, ...] = ()
    """Rules; the first one whose `match` fits an image decides. Each is a table:"""
    verifiers: tuple[str, ...] = ()
    """Programs that judge every image that is pulled; each must accept it."""
    verifier_timeout: float = 30.0
    """Seconds that one of them may take."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration; defaults are those of a node under a kubelet."""

    data: str = "/var/lib/crib"
    """What must survive a reboot: records, image layers, writable layers."""
    state: str = "/run/crib"
    """What need not: socket, namespaces, mounts, bundles. It belongs on a tmpfs."""
    socket: str = ""
    """Empty means STATE/crib.sock."""
    socket_group: str = "crib"
    """Group that may use the socket; root's where no such group exists."""
    log: LogSettings = LogSettings()
    network: NetworkSettings = NetworkSettings()
    images: ImageSettings = ImageSettings()
    streaming: StreamingSettings = StreamingSettings()
    containers: ContainerDefaults = ContainerDefaults()
    default_handler: str = "crun"
    """Handler of pods that name none."""
    handlers: Mapping[str, HandlerSettings] = field(default_factory=lambda: {"crun": HandlerSettings()})
    conmon: str = "conmon"
    """The monitor's program: a path, or a name found on PATH."""
    catatonit: str = "catatonit"
    """The program that holds a shared pid namespace."""
    cgroup_root: str = "/crib"
    """Parent cgroup of pods that name none."""
    cgroup_driver: str = "cgroupfs"
    """cgroupfs, or systemd: slices and scopes, made through it; a kubelet asks for it and does the same."""
    pids_limit: int = 0
    """Processes and threads of one container; 0: no limit of ours (a kubelet limits pods)."""
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    """Directories of CDI specs; where two name a device the later directory's counts."""
    oci_hooks_dirs: tuple[str, ...] = ()
    """Directories of oci-hooks(5) files; a later one's file takes the place of its namesake."""
    device_ownership_from_security_context: bool = False
    """Device nodes belong to run_as_user and run_as_group where those are given."""
    missing_host_path: str = "create"
    """create (as the peers do) or error (as the CRI's text says)."""
    image_volumes: str = "bind"
    """What becomes of an image's VOLUMEs: bind (a directory each, with its content), mkdir or ignore."""
    log_size_max: int = 0
    """Bytes after which a running container's log is set aside for a new one; 0: never, a kubelet does."""
    log_files: int = 5
    """Files of one container's log that are kept then, the one in use included."""
    verb_timeout: float = 240.0
    """Seconds that one call of the OCI runtime or monitor may take before it is ended."""
    making_verbs: int = 0
    """RunPodSandbox, CreateContainer and StartContainer at once; more wait. 0: as suits the CPUs."""
    nice: int = -10
    """Nice value of the daemon's own threads, -20 to -1; what it starts has 0. 0 changes nothing."""

    @property
    def socket_path(self) -> str:
        return self.socket or f"{self.state}/crib.sock"
