"""What a network reports about itself and about a pod's part in it: for people, never for decisions."""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.ids import SandboxId


@dataclass(frozen=True, slots=True)
class NetworkPlugin:
    """A CNI plugin of a network."""

    type: str
    path: str
    """Empty when no directory has it."""
    versions: tuple[str, ...] = ()
    """CNI versions that it speaks."""
    capabilities: tuple[str, ...] = ()
    """That the configuration grants it."""


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network that pods are attached to, or could be."""

    name: str
    kind: str
    """`bridge` (built in) or `cni`."""
    source: str
    """The file that configures it; `settings` for the built-in one."""
    interface: str
    """Its name in a pod; empty when pods are not attached to it."""
    attached: int
    """Pods that hold something of it."""
    version: str = ""
    """Of the CNI specification."""
    plugins: tuple[NetworkPlugin, ...] = ()
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    mtu: int = 0
    """Bytes; 0 where plugins choose it."""
    handlers: tuple[str, ...] = ()
    """Directories of handlers whose pods get this network instead of the node's."""
    problem: str = ""
    """Why pods cannot be attached to it now; empty when they can."""


@dataclass(frozen=True, slots=True)
class InterfaceView:
    """An interface in a pod's namespace, as the kernel has it now."""

    name: str
    mac: str
    mtu: int
    up: bool
    addresses: tuple[str, ...]
    """With prefix lengths."""
    host_interface: str = ""
    """The other end of a veth pair, on the host."""
    host_bridge: str = ""
    """The bridge that `host_interface` is a port of."""


@dataclass(frozen=True, slots=True)
class RouteView:
    """A route of a pod; `destination` is a prefix or `default`."""

    destination: str
    gateway: str
    """Empty for what is on the link."""
    interface: str


@dataclass(frozen=True, slots=True)
class ForwardView:
    """A port of the host that leads to the pod."""

    protocol: str
    host_address: str
    """`*` for all."""
    host_port: int
    pod_port: int


@dataclass(frozen=True, slots=True)
class PodNetworkView:
    """A pod's network as the kernel has it now."""

    networks: tuple[str, ...] = ()
    """In the order in which the pod was attached, eth0's first."""
    network_interfaces: tuple[str, ...] = ()
    """The interface that each of them gives the pod; empty for one that gives none (a device, a rule)."""
    interfaces: tuple[InterfaceView, ...] = ()
    routes: tuple[RouteView, ...] = ()
    forwards: tuple[ForwardView, ...] = ()
    ingress_rate: int = 0
    """Bits per second into the pod; 0: no limit."""
    egress_rate: int = 0


@dataclass(frozen=True, slots=True)
class NetworkCheck:
    """What a check of one pod's network found."""

    sandbox: SandboxId
    pod: str
    """NAMESPACE/NAME."""
    problem: str
    """Empty: it is as it was made."""
    repaired: bool = False
    repair_error: str = ""
