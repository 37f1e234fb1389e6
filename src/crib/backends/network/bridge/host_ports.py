"""Ports of the host that lead to pods: what is asked for, and the elements of nftables maps that do it.

A port is on all of the host's addresses of a family or on one of them. Where a pod has both families and the
mapping names no address, it gets the port of both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from crib.host.nftables import Elements
from crib.model.errors import InvalidRequest
from crib.model.network import ForwardView
from crib.model.sandbox import PortMapping, Protocol

Address = IPv4Address | IPv6Address

UDP = 17
SCTP = 132
_PROTOCOL_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: UDP, Protocol.SCTP: SCTP}
_PROTOCOL_NAMES = {6: "tcp", UDP: "udp", SCTP: "sctp"}
MAPS = {
    (4, False): "ports_any",
    (4, True): "ports_ip",
    (6, False): "ports6_any",
    (6, True): "ports6_ip",
}
"""By IP version, and whether the port is on one address."""
_ANY: Mapping[int, Address] = {4: IPv4Address(0), 6: IPv6Address(0)}


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the host, on one address or (unspecified, as a socket's) on all of its family.

    `protocol` is an IP protocol number.
    """

    protocol: int
    port: int
    address: Address = _ANY[4]

    def __str__(self) -> str:
        name = _PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        where = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{name} {'*' if self.is_any else where}:{self.port}"

    @property
    def is_any(self) -> bool:
        """Whether it is on all of the host's addresses."""
        return self.address.is_unspecified

    def excludes(self, other: HostPort) -> bool:
        """Whether the two cannot lead to different pods, as Kubernetes' scheduler counts it."""
        return (
            (self.protocol, self.port, self.address.version)
            == (other.protocol, other.port, other.address.version)
        ) and (self.is_any or other.is_any or self.address == other.address)


@dataclass(frozen=True, slots=True)
class PodPort:
    """Where a host port leads."""

    address: Address
    port: int


Forwards = dict[HostPort, PodPort]


def forwards_of(mappings: Iterable[PortMapping], pod_addresses: Sequence[Address]) -> Forwards:
    """The forwards that a pod asks for. InvalidRequest naming the field of a mapping that cannot be."""
    forwards: Forwards = {}
    for index, mapping in enumerate(mappings):
        if mapping.host_port == 0:
            continue
        field = f"port_mappings[{index}]"
        for name, port in (("host_port", mapping.host_port), ("container_port", mapping.container_port)):
            if not 0 < port < 65536:
                raise InvalidRequest(f"{port} is not a port", field=f"{field}.{name}")
        for address in _host_addresses(mapping.host_ip, pod_addresses, field):
            key = HostPort(_PROTOCOL_NUMBERS[mapping.protocol], mapping.host_port, address)
            to = next(one for one in pod_addresses if one.version == address.version)
            target = PodPort(to, mapping.container_port)
            if forwards.setdefault(key, target) != target:
                raise InvalidRequest(f"{key} is asked for twice", field=f"{field}.host_port")
    return forwards


def _host_addresses(text: str, pod_addresses: Sequence[Address], field: str) -> list[Address]:
    """The addresses to listen on; those of a socket: `::` is both families, `0.0.0.0` IPv4 alone."""
    if text in {"", "::"}:
        return [_ANY[address.version] for address in pod_addresses]
    field = f"{field}.host_ip"
    try:
        address = ip_address(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not an IP address", field=field) from error
    if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise InvalidRequest(f"{text} is not an address without a zone of the host", field=field)
    if address.version not in {one.version for one in pod_addresses}:
        raise InvalidRequest(f"{text} is IPv6 and the pod has IPv4 only", field=field)
    if address == IPv6Address(1):
        # It routes nothing between ::1 and another interface, and has no route_localnet for IPv6.
        text = "the kernel takes no packet from ::1 to a pod: use 127.0.0.1 or an address of the host"
        raise InvalidRequest(text, field=field)
    return [address]


def conflict(
    wanted: Forwards, present: Forwards, own: Collection[Address]
) -> tuple[HostPort, PodPort] | None:
    """The first wanted port that leads to another pod already, and where to."""
    by_port: dict[tuple[int, int], list[HostPort]] = {}
    for key in wanted:
        by_port.setdefault((key.protocol, key.port), []).append(key)
    for other, target in present.items():
        for key in by_port.get((other.protocol, other.port), ()):
            if target.address not in own and key.excludes(other):
                return key, target
    return None


def elements(verb: str, table: str, forwards: Forwards) -> str:
    """Commands that add or delete these elements of the maps; nothing for none."""
    by_map: dict[str, list[str]] = {name: [] for name in MAPS.values()}
    for key, target in forwards.items():
        where = f"{key.protocol} . {key.port}"
        if not key.is_any:
            where = f"{key.address} . {where}"
        leads = f" : {target.address} . {target.port}" if verb == "add" else ""
        by_map[MAPS[key.address.version, not key.is_any]].append(where + leads)
    return "\n".join(
        f"{verb} element inet {table} {name} {{ {', '.join(items)} }}"
        for name, items in by_map.items()
        if items
    )


def parse_maps(maps: Mapping[str, Elements]) -> Forwards:
    """The forwards that a table's maps hold."""
    return dict(_parsed(maps))


def _parsed(maps: Mapping[str, Elements]) -> Iterator[tuple[HostPort, PodPort]]:
    numbers = {name: number for number, name in _PROTOCOL_NAMES.items()}
    for (version, _), name in MAPS.items():
        for key, value in maps.get(name, ()):
            try:
                *address, protocol, port = key
                target_address, target_port = value
                source = HostPort(
                    numbers[protocol] if protocol in numbers else int(protocol),
                    int(port),
                    ip_address(address[0]) if address else _ANY[version],
                )
                yield source, PodPort(ip_address(target_address), int(target_port))
            except ValueError:
                continue  # an element that we did not write goes with the next making of the rules


def views(forwards: Forwards) -> tuple[ForwardView, ...]:
    """The forwards for people: those of both families to one port are one."""
    shown = {
        ForwardView(
            protocol=_PROTOCOL_NAMES.get(key.protocol, str(key.protocol)),
            host_address="*" if key.is_any else str(key.address),
            host_port=key.port,
            pod_port=target.port,
        ): None
        for key, target in forwards.items()
    }
    return tuple(sorted(shown, key=lambda one: (one.host_port, one.protocol, one.host_address)))
