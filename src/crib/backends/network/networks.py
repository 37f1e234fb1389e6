"""The kinds of network, by what `network.mode` calls them. One more is a row of `KINDS`.

Only the kind that the settings ask for is imported: that of the other takes 20 ms of a start.
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from crib.backends.extensions import NETWORKS, load
from crib.backends.locks import own_bridge
from crib.backends.network.bridge.addresses import (
    AddressBook,
    Keep,
    parse_subnet,
    parse_subnet6,
    pods_on_record,
)
from crib.backends.network.cni.kept_results import KeptResults
from crib.model.errors import InvalidRequest
from crib.model.paths import Paths
from crib.model.settings import HandlerSettings, NetworkSettings
from crib.ports.networks import PodNetworks


@dataclass(frozen=True, slots=True)
class Host:
    """Where a network keeps what it must know after a restart: rows are read from `connection`, and written
    by `keep`."""

    paths: Paths
    connection: sqlite3.Connection
    handlers: Mapping[str, HandlerSettings] = field(default_factory=dict)
    keep: Keep | None = None


@dataclass(frozen=True, slots=True)
class NetworkKind:
    """What has to be known of a kind of network before one of it is there."""

    module: str
    """What `open` needs; it may be imported beside other work."""
    open: Callable[[NetworkSettings, Host], PodNetworks]
    """InvalidRequest for settings that cannot be met."""
    held: Callable[[Host], int]
    """How many pods hold something that only this kind can take back."""
    owned: Callable[[NetworkSettings], AbstractContextManager[None]] = lambda _: nullcontext()
    """Holds what two daemons of one host must not share; Broken when another has it."""
    built_on: str = ""
    """The kind whose records it uses as its own."""


def check_mode(settings: NetworkSettings) -> None:
    """Load a kind that is not in the table; Broken. To be called before anything is made or opened."""
    if settings.mode not in KINDS:
        network = load(NETWORKS, settings.mode, "network.mode", KINDS)
        base = KINDS.get(getattr(network, "built_on", ""))
        KINDS[settings.mode] = NetworkKind(
            network.__module__,
            network.open,
            held=getattr(network, "held", lambda _: 0),
            owned=base.owned if base else lambda _: nullcontext(),
            built_on=getattr(network, "built_on", ""),
        )


def import_network(settings: NetworkSettings) -> None:
    """Import what `open_network` will."""
    importlib.import_module(KINDS[settings.mode].module)


def owned_network(settings: NetworkSettings) -> AbstractContextManager[None]:
    """To be held from before `open_network` until the daemon ends."""
    return KINDS[settings.mode].owned(settings)


def open_network(settings: NetworkSettings, host: Host) -> PodNetworks:
    """The network that the settings ask for. InvalidRequest while pods hold something of another kind."""
    own = (settings.mode, KINDS[settings.mode].built_on)
    for name, kind in KINDS.items():
        if name not in own and (held := kind.held(host)):
            text = f"{held} pods hold something of {name}: remove them with that, or run cribd --wipe with it"
            raise InvalidRequest(text, field="network.mode")
    return KINDS[settings.mode].open(settings, host)


def _open_cni(settings: NetworkSettings, host: Host) -> PodNetworks:
    from crib.backends.network.cni.network import CniNetwork

    of_handlers = [one.cni_conf_dir for one in host.handlers.values() if one.cni_conf_dir]
    return CniNetwork(settings, host.paths.network, of_handlers)


def bridge_parts(settings: NetworkSettings, host: Host) -> tuple[NetworkSettings, AddressBook, str]:
    """What a bridge, or a class that is built on it, is made of. InvalidRequest for ranges that cannot be."""
    try:
        subnet = parse_subnet(settings.subnet)
    except ValueError as error:
        raise InvalidRequest(str(error), field="network.subnet") from error
    try:
        subnet6 = parse_subnet6(settings.subnet6) if settings.subnet6 else None
    except ValueError as error:
        raise InvalidRequest(str(error), field="network.subnet6") from error
    return settings, AddressBook(host.connection, subnet, subnet6, host.keep), host.paths.network


def _open_bridge(settings: NetworkSettings, host: Host) -> PodNetworks:
    from crib.backends.network.bridge.network import BridgeNetwork

    return BridgeNetwork(*bridge_parts(settings, host))


KINDS: dict[str, NetworkKind] = {
    "bridge": NetworkKind(
        "crib.backends.network.bridge.network",
        _open_bridge,
        held=lambda host: pods_on_record(host.connection),
        owned=lambda settings: own_bridge(settings.bridge),
    ),
    "cni": NetworkKind(
        "crib.backends.network.cni.network",
        _open_cni,
        held=lambda host: len(KeptResults(host.paths.network).pods()),
    ),
}
