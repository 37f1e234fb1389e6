"""`[network]`."""

from __future__ import annotations

from crib.config.values import (
    Rules,
    absolute,
    absolute_or_none,
    at_least,
    domain_name,
    interface_name,
    ip_range,
    one_of,
    subnet,
    subnet6,
)

RULES: Rules = {
    "network.mode": one_of("cni", "bridge"),
    "network.bridge": interface_name,
    "network.subnet": subnet,
    "network.subnet6": subnet6,
    "network.mtu": at_least(0),
    "network.native_ranges": ip_range,
    "network.isolation": one_of("none", "pods"),
    "network.dns_domain": domain_name,
    "network.cni_conf_dir": absolute,
    "network.cni_networks": at_least(0),
    "network.cni_conf_template": absolute_or_none,
    "network.plugin_timeout": at_least(0.1),
    "network.ip_preference": one_of("cni", "ipv4", "ipv6"),
    "network.ready_timeout": at_least(0),
    "network.check_interval": at_least(0),
}
