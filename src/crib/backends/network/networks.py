"""Which network the settings ask for."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from types import MappingProxyType

from crib.backends.network.addresses import AddressBook, parse_subnet
from crib.backends.network.bridge import BridgeNetwork, BridgeSettings
from crib.backends.network.cni import CniNetwork, CniSettings
from crib.model.errors import InvalidRequest
from crib.model.paths import Paths
from crib.model.settings import HandlerSettings, NetworkSettings
from crib.ports import PodNetworks


def open_network(
    settings: NetworkSettings,
    paths: Paths,
    connection: sqlite3.Connection,
    handlers: Mapping[str, HandlerSettings] = MappingProxyType({}),
) -> PodNetworks:
    """The built-in bridge, whose addresses are kept through `connection`, or CNI."""
    if settings.mode == "cni":
        return CniNetwork(
            CniSettings(
                conf_dir=settings.cni_conf_dir,
                bin_dirs=settings.cni_bin_dirs,
                state_dir=paths.network,
                plugin_timeout=settings.plugin_timeout,
                handler_conf_dirs=tuple(
                    handler.cni_conf_dir for handler in handlers.values() if handler.cni_conf_dir
                ),
            )
        )
    try:
        subnet = parse_subnet(settings.subnet)
    except ValueError as error:
        raise InvalidRequest(str(error), field="network.subnet") from error
    # The table is named for the bridge, so that two daemons of one host do not share it.
    table = "crib_" + re.sub(r"[^A-Za-z0-9]", "_", settings.bridge)
    bridge = BridgeSettings(name=settings.bridge, mtu=settings.mtu, table=table)
    return BridgeNetwork(bridge, AddressBook(connection, subnet))
