"""What CNI plugins get of a pod beyond its id: CNI_ARGS and runtimeConfig (CNI CONVENTIONS.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address, ip_interface
from typing import Any

from crib.model.errors import InvalidRequest
from crib.model.sandbox import Protocol
from crib.ports.networks import PodNetwork
from crib.wire import cni

INGRESS_ANNOTATION = "kubernetes.io/ingress-bandwidth"
EGRESS_ANNOTATION = "kubernetes.io/egress-bandwidth"
ALIASES_ANNOTATION = "io.crib.network.aliases"
"""More names of the pod, with commas between them."""
MAC_ANNOTATION = "io.crib.network.mac"
IPS_ANNOTATION = "io.crib.network.ips"
"""Addresses, each with or without a prefix length, with commas between them."""
WISHES = 32
"""Items of one such list at most."""
SMALLEST_RATE = 1_000
LARGEST_RATE = 1_000_000_000_000_000
UNLIMITED_BURST = (1 << 31) - 1

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ALIAS = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_QUANTITY = re.compile(
    r"\+?([0-9]{1,19}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})([eE]\+?[0-9]{1,2}|[num]|[kMGTPE]|[KMGTPE]i)?"
)
_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_PROTOCOLS = {Protocol.TCP: "tcp", Protocol.UDP: "udp", Protocol.SCTP: "sctp"}


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bits per second into the pod and out of it; 0 is no limit."""

    ingress: int = 0
    egress: int = 0


def plugin_arguments(pod: PodNetwork) -> dict[str, str]:
    """CNI_ARGS as every CRI runtime passes them."""
    return {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.metadata.namespace,
        "K8S_POD_NAME": pod.metadata.name,
        "K8S_POD_INFRA_CONTAINER_ID": pod.id,
        "K8S_POD_UID": pod.metadata.uid,
    }


def refuse_unspeakable(pod: PodNetwork) -> None:
    """InvalidRequest for a name that CNI_ARGS cannot hold: no plugin could be run for it, nor for its DEL."""
    meta = pod.metadata
    for field, text in (("name", meta.name), ("namespace", meta.namespace), ("uid", meta.uid)):
        if any(char in text for char in ";="):
            raise InvalidRequest(
                f"{text!r} contains a semicolon or an equals sign", field=f"metadata.{field}"
            )


def runtime_config(pod: PodNetwork, ranges: Sequence[str] = ()) -> dict[str, Any]:
    """All capabilities that this pod has something to say on; each plugin gets those that it declares.

    `ranges` are the node's. InvalidRequest for an annotation that is not what it must be.
    """
    config: dict[str, Any] = {}
    ports = [
        {
            "hostPort": mapping.host_port,
            "containerPort": mapping.container_port,
            "protocol": _PROTOCOLS[mapping.protocol],
            "hostIP": mapping.host_ip,
        }
        for mapping in pod.port_mappings
        if mapping.host_port
    ]
    if ports:
        config["portMappings"] = ports
    bandwidth = bandwidth_of(pod.annotations)
    for direction, rate in (("ingress", bandwidth.ingress), ("egress", bandwidth.egress)):
        if rate:
            limit = {f"{direction}Rate": rate, f"{direction}Burst": UNLIMITED_BURST}
            config["bandwidth"] = config.get("bandwidth", {}) | limit
    dns = {"servers": pod.dns_servers, "searches": pod.dns_searches, "options": pod.dns_options}
    if any(dns.values()):
        config["dns"] = {key: list(value) for key, value in dns.items() if value}
    if ranges:
        config["ipRanges"] = [[{"subnet": subnet}] for subnet in ranges]
    if pod.annotations:
        config["io.kubernetes.cri.pod-annotations"] = dict(pod.annotations)
    if pod.cgroup_parent:
        config["cgroupPath"] = pod.cgroup_parent
    return config | wishes_of(pod.annotations)


def of_further_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a pod's runtime config for its second network and those after.

    Host ports, the node's ranges and what the pod's annotations ask for can be had of one network only.
    """
    return {key: value for key, value in config.items() if key not in _FIRST_ONLY}


def wishes_of(annotations: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What annotations ask for of aliases, mac and ips. InvalidRequest naming the annotation."""
    given = dict(annotations)
    wishes: dict[str, Any] = {}
    for capability, (annotation, parse) in _WISHES.items():
        if annotation in given:
            try:
                wishes[capability] = parse(given[annotation])
            except ValueError as error:
                raise InvalidRequest(str(error), field=field_of(annotation)) from error
    return wishes


def refuse_unmet_wishes(pod: PodNetwork, network: cni.NetworkConf) -> None:
    """InvalidRequest for an annotation that asks for what no plugin of the network can do."""
    declared = {capability for plugin in network.plugins for capability in plugin.capabilities}
    for capability in wishes_of(pod.annotations):
        if capability not in declared:
            text = f"no plugin of network {network.name} has the capability {capability}"
            raise InvalidRequest(text, field=field_of(_WISHES[capability][0]))


def bandwidth_of(annotations: Sequence[tuple[str, str]]) -> Bandwidth:
    """The limits that a pod's annotations ask for. InvalidRequest naming the annotation."""
    given = dict(annotations)
    rates: list[int] = []
    for annotation in (INGRESS_ANNOTATION, EGRESS_ANNOTATION):
        text = given.get(annotation)
        try:
            rates.append(0 if text is None else parse_rate(text))
        except ValueError as error:
            raise InvalidRequest(str(error), field=field_of(annotation)) from error
    return Bandwidth(*rates)


def field_of(annotation: str) -> str:
    """The path of a pod's annotation in RunPodSandbox's request."""
    return f"annotations[{annotation}]"


def parse_rate(text: str) -> int:
    """Bits per second of a Kubernetes quantity ("10M", "1.5Gi", "2e6"). ValueError if it is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 10M")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        number *= 1 << _BINARY[suffix]
    else:
        number = number.scaleb(_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:]))
    if not SMALLEST_RATE <= number <= LARGEST_RATE:
        raise ValueError(f"{text!r} is not between 1k and 1P bits per second")
    return int(number)


def _items(text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise ValueError(f"{text!r} has an empty item")
    if len(items) > WISHES:
        raise ValueError(f"{len(items)} items, more than {WISHES}")
    return items


def _aliases(text: str) -> list[str]:
    for item in (items := _items(text)):
        if _ALIAS.fullmatch(item) is None:
            raise ValueError(f"{item!r} is not a host name")
    return items


def _mac(text: str) -> str:
    mac = text.strip().lower()
    if _MAC.fullmatch(mac) is None or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError(f"{text!r} is not the MAC address of one interface, as in 02:00:5e:10:00:01")
    return mac


def _addresses(text: str) -> list[str]:
    return [str(ip_interface(item) if "/" in item else ip_address(item)) for item in _items(text)]


_WISHES: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "aliases": (ALIASES_ANNOTATION, _aliases),
    "mac": (MAC_ANNOTATION, _mac),
    "ips": (IPS_ANNOTATION, _addresses),
}
_FIRST_ONLY = frozenset({"portMappings", "ipRanges", *_WISHES})
