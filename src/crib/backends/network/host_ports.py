"""The built-in bridge's nftables rules: masquerade, and ports of the host that lead to pods.

The rules are fixed and made once; a pod with host ports only adds elements to two maps, so ports that
nobody asked for cost nothing. This process is the maps' only writer and mirrors them in memory: it
checks there (a command that the kernel refuses costs 10–30 ms), and can put everything back when
somebody flushes the ruleset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address
from typing import Final, TypeVar

from crib.host.conntrack import forget_connections_to_port
from crib.host.nftables import Nftables, check_table_name
from crib.model.errors import InvalidRequest, Unavailable
from crib.model.sandbox import PortMapping, Protocol

T = TypeVar("T")

_UDP: Final = 17
_PROTOCOL_NUMBERS: Final = {Protocol.TCP: 6, Protocol.UDP: _UDP, Protocol.SCTP: 132}
_PROTOCOL_NAMES: Final = {6: "tcp", _UDP: "udp", 132: "sctp"}
_ANY_MAP: Final = "ports_any"
_ONE_MAP: Final = "ports_ip"
_CHAINS: Final = ("host_ports", "guard", "prerouting", "output", "postrouting")


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the host, on one address or (None) on all; `protocol` is an IP protocol number."""

    protocol: int
    port: int
    address: IPv4Address | None = None

    def __str__(self) -> str:
        name = _PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        return f"{name} {self.address or '*'}:{self.port}"


@dataclass(frozen=True, slots=True)
class PodPort:
    """Where a host port leads."""

    address: IPv4Address
    port: int


Forwards = dict[HostPort, PodPort]


def forwards_of(mappings: Iterable[PortMapping], pod_address: IPv4Address) -> Forwards:
    """The forwards that a pod asks for. InvalidRequest naming the field of a mapping that cannot be."""
    forwards: Forwards = {}
    for index, mapping in enumerate(mappings):
        if mapping.host_port == 0:
            continue
        field = f"config.port_mappings[{index}]"
        for name, port in (("host_port", mapping.host_port), ("container_port", mapping.container_port)):
            if not 0 < port < 65536:
                raise InvalidRequest(f"{port} is not a port", field=f"{field}.{name}")
        key = HostPort(
            _PROTOCOL_NUMBERS[mapping.protocol], mapping.host_port, _host_address(mapping.host_ip, field)
        )
        target = PodPort(pod_address, mapping.container_port)
        if forwards.setdefault(key, target) != target:
            raise InvalidRequest(f"{key} is asked for twice", field=f"{field}.host_port")
    return forwards


def _host_address(text: str, field: str) -> IPv4Address | None:
    if text in {"", "0.0.0.0", "::"}:  # noqa: S104  # compared with, not bound to
        return None
    try:
        return IPv4Address(text)
    except AddressValueError:
        pass
    try:
        IPv6Address(text)
    except AddressValueError as error:
        raise InvalidRequest(f"{text!r} is not an IP address", field=f"{field}.host_ip") from error
    raise InvalidRequest(f"{text} is IPv6: the built-in bridge is IPv4 only", field=f"{field}.host_ip")


def ruleset(table: str, bridge: str, subnets: Collection[IPv4Network], forwards: Forwards) -> str:
    """Commands that make the table what it must be, whatever it was, as one transaction."""
    ranges = ", ".join(str(subnet) for subnet in sorted(subnets))
    flush = "\n".join(f"flush chain inet {table} {chain}" for chain in _CHAINS)
    return f"""
add table inet {table}
add map inet {table} {_ANY_MAP} {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
add map inet {table} {_ONE_MAP} {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
add set inet {table} pods {{ type ipv4_addr; flags interval; }}
add chain inet {table} host_ports
add chain inet {table} guard {{ type filter hook prerouting priority -300; policy accept; }}
add chain inet {table} prerouting {{ type nat hook prerouting priority -100; policy accept; }}
add chain inet {table} output {{ type nat hook output priority -100; policy accept; }}
add chain inet {table} postrouting {{ type nat hook postrouting priority 100; policy accept; }}
{flush}
flush set inet {table} pods
flush map inet {table} {_ANY_MAP}
flush map inet {table} {_ONE_MAP}
add element inet {table} pods {{ {ranges} }}
add rule inet {table} guard iifname "{bridge}" ip daddr 127.0.0.0/8 drop
add rule inet {table} guard iifname "{bridge}" ip saddr 127.0.0.0/8 drop
add rule inet {table} host_ports dnat ip to ip daddr . meta l4proto . th dport map @{_ONE_MAP}
add rule inet {table} host_ports dnat ip to meta l4proto . th dport map @{_ANY_MAP}
add rule inet {table} prerouting fib daddr type local jump host_ports
add rule inet {table} output fib daddr type local jump host_ports
add rule inet {table} postrouting ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
add rule inet {table} postrouting ip saddr @pods ip daddr @pods ct status dnat masquerade
add rule inet {table} postrouting ip saddr @pods ip daddr != @pods ip daddr != 224.0.0.0/4 \
oifname != "{bridge}" masquerade
{elements("add", table, forwards)}
"""


def elements(verb: str, table: str, forwards: Forwards) -> str:
    """Commands that add or delete these elements of the two maps; nothing for none."""
    by_map: dict[str, list[str]] = {_ANY_MAP: [], _ONE_MAP: []}
    for key, target in forwards.items():
        where = f"{key.protocol} . {key.port}"
        if key.address is not None:
            where = f"{key.address} . {where}"
        leads = f" : {target.address} . {target.port}" if verb == "add" else ""
        by_map[_ANY_MAP if key.address is None else _ONE_MAP].append(where + leads)
    return "\n".join(
        f"{verb} element inet {table} {name} {{ {', '.join(items)} }}"
        for name, items in by_map.items()
        if items
    )


class HostPorts:
    """The rules and the two maps in the kernel. OSError (NftablesError) when the kernel refuses."""

    def __init__(self, table: str, bridge: str) -> None:
        self._table = check_table_name(table)
        self._bridge = bridge
        self._forwards: Forwards = {}
        self._lock = asyncio.Lock()
        self._nftables: Nftables | None = None
        # One thread, because a libnftables context is one thread's, and its calls may block the loop.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nftables")

    async def install(self, subnets: Collection[IPv4Network], keep: Collection[IPv4Address]) -> None:
        """Make the rules anew, with the forwards in the kernel that lead to an address in `keep`."""
        async with self._lock:
            found = await self._in_thread(self._read)
            forwards = {key: target for key, target in found.items() if target.address in keep}
            await self._run(ruleset(self._table, self._bridge, subnets, forwards), "install rules")
            self._forwards = forwards

    async def restore_if_lost(self, subnets: Collection[IPv4Network]) -> bool:
        """Put rules and forwards back if somebody removed them; True if that was needed."""
        async with self._lock:
            if await self._in_thread(lambda: self._context().exists(self._table, "postrouting")):
                return False
            await self._run(ruleset(self._table, self._bridge, subnets, self._forwards), "restore rules")
            return True

    async def add(self, forwards: Forwards) -> None:
        """Lead these ports to a pod. Unavailable naming the port if one leads to another pod."""
        async with self._lock:
            for key, target in forwards.items():
                taken = self._forwards.get(key)
                if taken is not None and taken.address != target.address:
                    raise Unavailable(f"host port {key} already leads to the pod at {taken.address}")
            new = {key: to for key, to in forwards.items() if self._forwards.get(key) != to}
            stale = {key: self._forwards[key] for key in new if key in self._forwards}
            if new:
                commands = elements("delete", self._table, stale) + "\n" + elements("add", self._table, new)
                await self._run(commands, f"add host ports {', '.join(map(str, new))}")
                self._forwards.update(new)
                await self._forget_udp(new)

    async def remove(self, address: IPv4Address) -> None:
        """Remove all forwards to a pod; none is fine."""
        async with self._lock:
            gone = {key: to for key, to in self._forwards.items() if to.address == address}
            if not gone:
                return
            await self._run(elements("delete", self._table, gone), f"remove host ports of {address}")
            for key in gone:
                del self._forwards[key]
            await self._forget_udp(gone)

    def forwards(self) -> Forwards:
        """What leads where, as last written."""
        return dict(self._forwards)

    async def uninstall(self) -> None:
        """Delete the table. It need not be there."""
        async with self._lock:
            # Adding it first makes the deletion succeed where it is not there.
            commands = f"add table inet {self._table}\ndelete table inet {self._table}\n"
            await self._run(commands, "remove rules")
            self._forwards = {}

    async def close(self) -> None:
        """Free the context and end the thread; the rules stay, as the pods do."""
        async with self._lock:
            if self._nftables is not None:
                await self._in_thread(self._nftables.close)
            self._executor.shutdown(wait=False)

    async def _forget_udp(self, keys: Collection[HostPort]) -> None:
        """UDP clients that go on sending would follow the way that was tracked before."""
        ports = [key.port for key in keys if key.protocol == _UDP]
        if ports:
            await self._in_thread(lambda: [forget_connections_to_port(_UDP, port) for port in ports])

    async def _run(self, commands: str, what: str) -> None:
        await self._in_thread(lambda: self._context().run(commands, table=self._table, what=what))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _context(self) -> Nftables:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables

    def _read(self) -> Forwards:
        if not self._context().exists(self._table, "postrouting"):
            return {}
        forwards: Forwards = {}
        for name in (_ANY_MAP, _ONE_MAP):
            for key, value in self._context().list_map(self._table, name):
                parsed = _parse_element(key, value)
                if parsed is not None:
                    forwards[parsed[0]] = parsed[1]
        return forwards


def _parse_element(key: tuple[str, ...], value: tuple[str, ...]) -> tuple[HostPort, PodPort] | None:
    numbers = {name: number for number, name in _PROTOCOL_NAMES.items()}
    try:
        *address, protocol, port = key
        target_address, target_port = value
        source = HostPort(
            numbers[protocol] if protocol in numbers else int(protocol),
            int(port),
            IPv4Address(address[0]) if address else None,
        )
        return source, PodPort(IPv4Address(target_address), int(target_port))
    except ValueError:
        return None  # an element that we did not write is dropped with the next install
