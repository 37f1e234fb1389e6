"""Settings of node plugins (NRI), with their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from crib.model.keys import Between, Path, PathOrNone


@dataclass(frozen=True, slots=True)
class ValidatorSettings:
    """The built-in validator: what plugins may not change, and which plugins there must be."""

    enable: bool = False
    """Check what plugins change in a container by the rules of this table."""
    reject_oci_hooks: bool = False
    """Refuse containers to which a plugin adds OCI hooks: these run on the host, as root."""
    reject_runtime_default_seccomp: bool = False
    """Refuse a plugin's own seccomp policy where the container asked for RuntimeDefault."""
    reject_unconfined_seccomp: bool = False
    """The same where it asked for none."""
    reject_custom_seccomp: bool = False
    """The same where it asked for a profile of the node (Localhost)."""
    reject_namespaces: bool = False
    """Refuse containers whose namespaces a plugin changes."""
    reject_sysctls: bool = False
    """Refuse containers whose sysctls a plugin changes."""
    required_plugins: tuple[str, ...] = ()
    """Names of plugins that must have seen a container, or it is refused. Static pods need a toleration."""
    tolerate_missing_annotation: str = ""
    """Annotation of pods that may do without required plugins, if it is `true` there; empty: none."""


@dataclass(frozen=True, slots=True)
class NriSettings:
    """Node plugins by the Node Resource Interface."""

    enable: bool = True
    """Let plugins see pods and containers and change what containers get."""
    socket: Path = "/var/run/nri/nri.sock"
    """Where plugins connect. Only root may."""
    disable_connections: bool = False
    """Run the plugins of `plugin_dir` only: there is no socket."""
    plugin_dir: PathOrNone = "/opt/nri/plugins"
    """Programs named INDEX-NAME that are started as plugins with the daemon; empty: none."""
    plugin_config_dir: PathOrNone = "/etc/nri/conf.d"
    """Their configuration: INDEX-NAME.conf or NAME.conf; empty: none."""
    registration_timeout: Annotated[float, Between(0.1, 300)] = 5.0
    """Seconds that a plugin which has connected, or was started, has to register and be configured."""
    request_timeout: Annotated[float, Between(0.1, 300)] = 2.0
    """Seconds for one call of a plugin. One that takes longer is dropped; the verb goes on without it."""
    synchronize_timeout: Annotated[float, Between(0.1, 300)] = 30.0
    """Seconds that a plugin which has come has to take in all pods and containers. Creates wait for it."""
    validator: ValidatorSettings = ValidatorSettings()
