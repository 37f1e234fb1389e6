"""What a pod tells CNI plugins beyond its id: CNI_ARGS and runtimeConfig (CNI CONVENTIONS.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from crib.model.errors import InvalidRequest
from crib.model.sandbox import Protocol
from crib.ports import PodNetwork

INGRESS_ANNOTATION: Final = "kubernetes.io/ingress-bandwidth"
EGRESS_ANNOTATION: Final = "kubernetes.io/egress-bandwidth"
SMALLEST_RATE: Final = 1_000
LARGEST_RATE: Final = 1_000_000_000_000_000
UNLIMITED_BURST: Final = (1 << 31) - 1

_QUANTITY = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([eE][0-9]{1,2}|m|[kMGTPE]|[KMGTPE]i)?")
_DECIMAL: Final = {"": 0, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_PROTOCOLS: Final = {Protocol.TCP: "tcp", Protocol.UDP: "udp", Protocol.SCTP: "sctp"}


def plugin_arguments(pod: PodNetwork) -> dict[str, str]:
    """CNI_ARGS as every CRI runtime passes them."""
    return {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.metadata.namespace,
        "K8S_POD_NAME": pod.metadata.name,
        "K8S_POD_INFRA_CONTAINER_ID": pod.id,
        "K8S_POD_UID": pod.metadata.uid,
    }


def runtime_config(pod: PodNetwork, pod_cidr: str) -> dict[str, Any]:
    """All capabilities that this pod has something to say on; each plugin gets those that it declares."""
    config: dict[str, Any] = {}
    annotations = dict(pod.annotations)
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
    if bandwidth := _bandwidth(annotations):
        config["bandwidth"] = bandwidth
    dns = {"servers": pod.dns_servers, "searches": pod.dns_searches, "options": pod.dns_options}
    if any(dns.values()):
        config["dns"] = {key: list(value) for key, value in dns.items() if value}
    if ranges := [[{"subnet": part.strip()}] for part in pod_cidr.split(",") if part.strip()]:
        config["ipRanges"] = ranges
    if annotations:
        config["io.kubernetes.cri.pod-annotations"] = annotations
    if pod.cgroup_parent:
        config["cgroupPath"] = pod.cgroup_parent
    return config


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


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    bandwidth: dict[str, int] = {}
    for direction, annotation in (("ingress", INGRESS_ANNOTATION), ("egress", EGRESS_ANNOTATION)):
        text = annotations.get(annotation)
        if text is None:
            continue
        try:
            bandwidth[f"{direction}Rate"] = parse_rate(text)
        except ValueError as error:
            raise InvalidRequest(str(error), field=f"config.annotations[{annotation}]") from error
        bandwidth[f"{direction}Burst"] = UNLIMITED_BURST
    return bandwidth
