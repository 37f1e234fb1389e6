"""Which network the settings ask for; the other one is not imported (20 ms of a start)."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from crib.backends.network.bridge.shared import BridgeSettings
    from crib.backends.network.cni.network import CniSettings


def import_network(mode: str) -> None:
    """Import what `open_network` will; it may be done beside other work."""
    if mode == "cni":
        from crib.backends.network.cni import network  # noqa: F401
    else:
        from crib.backends.network.bridge import network as _  # noqa: F401


def open_network(
    settings: NetworkSettings,
    paths: Paths,
    connection: sqlite3.Connection,
    handlers: Mapping[str, HandlerSettings] = MappingProxyType({}),
    keep: Keep | None = None,
) -> PodNetworks:
    """The built-in bridge, whose addresses are read from `connection` and written by `keep`, or CNI."""
    _refuse_change_of_mode(settings.mode, paths, connection)
    if settings.mode == "cni":
        from crib.backends.network.cni.network import CniNetwork

        return CniNetwork(_cni_settings(settings, paths, handlers))
    try:
        subnet = parse_subnet(settings.subnet)
    except ValueError as error:
        raise InvalidRequest(str(error), field="network.subnet") from error
    try:
        subnet6 = parse_subnet6(settings.subnet6) if settings.subnet6 else None
    except ValueError as error:
        raise InvalidRequest(str(error), field="network.subnet6") from error
    from crib.backends.network.bridge.network import BridgeNetwork

    return BridgeNetwork(_bridge_settings(settings, paths), AddressBook(connection, subnet, subnet6, keep))


def _refuse_change_of_mode(mode: str, paths: Paths, connection: sqlite3.Connection) -> None:
    """What one kind of network gave to pods the other one cannot take back."""
    held = pods_on_record(connection) if mode == "cni" else len(KeptResults(paths.network).pods())
    if held:
        other = "bridge" if mode == "cni" else "cni"
        text = f"{held} pods hold something of {other}: remove them with that, or run cribd --wipe with it"
        raise InvalidRequest(text, field="network.mode")


def _cni_settings(
    settings: NetworkSettings, paths: Paths, handlers: Mapping[str, HandlerSettings]
) -> CniSettings:
    from crib.backends.network.cni.choice import Directories
    from crib.backends.network.cni.network import CniSettings

    return CniSettings(
        directories=Directories(
            node=settings.cni_conf_dir,
            handlers=tuple(one.cni_conf_dir for one in handlers.values() if one.cni_conf_dir),
            networks=settings.cni_networks,
            default_network=settings.cni_default_network,
        ),
        bin_dirs=settings.cni_bin_dirs,
        state_dir=paths.network,
        ranges_file=_ranges_file(paths),
        plugin_timeout=settings.plugin_timeout,
        ready_timeout=settings.ready_timeout,
        ip_preference=settings.ip_preference,
        conf_template=settings.cni_conf_template,
    )


def _bridge_settings(settings: NetworkSettings, paths: Paths) -> BridgeSettings:
    from crib.backends.network.bridge.shared import BridgeSettings

    return BridgeSettings(
        name=settings.bridge,
        mtu=settings.mtu,
        # The table is named for the bridge, so that two daemons of one host do not share it.
        table="crib_" + re.sub(r"[^A-Za-z0-9]", "_", settings.bridge),
        isolated=settings.isolation == "pods",
        dns_domain=settings.dns_domain,
        ranges_file=_ranges_file(paths),
        native_ranges=settings.native_ranges,
        ip_preference=settings.ip_preference,
    )


def _ranges_file(paths: Paths) -> str:
    """Beside the pods' own files, whose names are ids."""
    return f"{paths.network}/pod-cidr"
