"""What the administrator can set; `crib.config` reads it from TOML, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`level` is a name of the logging module; `format` is text or json."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Which network pods get."""

    mode: str = "cni"
    """`cni` (under a kubelet) or `bridge` (built in, needs no plugin)."""
    bridge: str = "crib0"
    """Name of the built-in bridge, at most 15 characters."""
    subnet: str = "10.203.0.0/16"
    """Range that the built-in bridge hands out; its first address is the gateway."""
    mtu: int = 0
    """0 takes the bridge's default (1500)."""
    cni_conf_dir: str = "/etc/cni/net.d"
    cni_bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
    plugin_timeout: float = 60.0
    """Seconds for one plugin's ADD, DEL, CHECK or STATUS."""


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """One RuntimeClass handler."""

    path: str = ""
    """The OCI runtime's program; empty means the handler's name, found on PATH."""
    args: tuple[str, ...] = ()
    """Global arguments put before the runtime's command."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Pulls, imports and the store."""

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Registry host to base URLs tried in order before the registry itself."""
    insecure: tuple[str, ...] = ()
    """Registries spoken to over plain http."""
    parallel_layers: int = 3
    worker_user: str = "nobody"
    """Unprivileged user of the worker process."""
    pull_linger: float = 30.0
    """Seconds that a pull goes on after its last caller has gone."""
    stall_timeout: float = 60.0
    """Seconds without a byte after which a transfer fails."""
    max_layer_bytes: int = 64 << 30
    """Uncompressed size of one layer at most."""
    max_ratio: int = 200
    """Uncompressed to compressed size at most (beyond the first 64 MiB)."""
    block_size: int = 0
    """512, 4096, or 0 to choose by the probe."""
    mount_method: str = "auto"
    """auto, file or loop."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration; defaults are those of a node under a kubelet."""

    data: str = "/var/lib/crib"
    state: str = "/run/crib"
    socket: str = ""
    """Empty means STATE/crib.sock."""
    socket_group: str = "crib"
    """Group that may use the socket; root's where no such group exists."""
    log: LogSettings = LogSettings()
    network: NetworkSettings = NetworkSettings()
    images: ImageSettings = ImageSettings()
    default_handler: str = "crun"
    handlers: Mapping[str, HandlerSettings] = field(default_factory=lambda: {"crun": HandlerSettings()})
    conmon: str = "conmon"
    catatonit: str = "catatonit"
    cgroup_root: str = "/crib"
    """Parent cgroup of pods that name none."""
    missing_host_path: str = "create"
    """create (as the peers do) or error (as the CRI's text says)."""
    verb_timeout: float = 240.0
    """Seconds that one call of the OCI runtime or monitor may take before it is ended."""

    @property
    def socket_path(self) -> str:
        return self.socket or f"{self.state}/crib.sock"
