"""Which pod holds which addresses of the built-in bridge's ranges, IPv4 and, where there is one, IPv6.

Addresses go round robin: one that was given back is handed out again only after all others, so that a
peer which still remembers it (ARP, conntrack, DNS) does not reach the wrong pod.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from types import MappingProxyType

from crib.backends.network.runtime_config import IPS_ANNOTATION, MAC_ANNOTATION, field_of
from crib.backends.records.boot_file import Change
from crib.host.addresses import Interface
from crib.model.errors import Exhausted, InvalidRequest
from crib.model.ids import SandboxId

SMALLEST_PREFIX = 8
LARGEST_PREFIX = 29
SMALLEST_PREFIX6 = 64
LARGEST_PREFIX6 = 120
OWN_MAC = "c2:1b:"
"""How the MACs begin that are derived from addresses."""

Address = IPv4Address | IPv6Address
Range = IPv4Network | IPv6Network

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS pod_address (address BLOB PRIMARY KEY, pod TEXT NOT NULL,"
    " owner TEXT NOT NULL, mac TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS pod_address_cursor (version INTEGER PRIMARY KEY, last BLOB NOT NULL)",
)
_RESERVE = "REPLACE INTO pod_address (address, pod, owner, mac) VALUES (?, ?, ?, ?)"
_MOVE_ON = "REPLACE INTO pod_address_cursor (version, last) VALUES (?, ?)"
_RELEASE = "DELETE FROM pod_address WHERE address = ?"
_OLD_TABLES = ("network_address", "network_cursor")


@dataclass(frozen=True, slots=True)
class Holding:
    """What a pod holds: `addresses` with IPv4's first, and a MAC if it asked for one (else empty)."""

    owner: str
    """NAMESPACE/NAME; empty for a pod that an older version attached."""
    addresses: tuple[Address, ...]
    mac: str = ""

    @property
    def link_mac(self) -> str:
        """The MAC of the pod's interface."""
        return self.mac or mac_of(self.addresses[0])


@dataclass(frozen=True, slots=True)
class Wish:
    """What a pod's annotations ask for; of a family without an address the next free one is taken."""

    addresses: tuple[Interface, ...] = ()
    """The prefix is the whole length where none was written."""
    mac: str = ""


def wish_of(wishes: Mapping[str, object]) -> Wish:
    """What `runtime_config.wishes_of` found. InvalidRequest for two addresses of one family."""
    found = wishes.get("ips", ())
    addresses = tuple(ip_interface(str(item)) for item in found) if isinstance(found, list) else ()
    if len({address.version for address in addresses}) < len(addresses):
        raise InvalidRequest("more than one address of a family", field=field_of(IPS_ANNOTATION))
    return Wish(addresses, str(wishes.get("mac", "")))


def parse_subnet(text: str) -> IPv4Network:
    """A range to hand out from. ValueError naming what is wrong with it."""
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"subnet {text!r}: {error}") from error
    if not SMALLEST_PREFIX <= subnet.prefixlen <= LARGEST_PREFIX:
        raise ValueError(f"subnet {text!r}: prefix length is not {SMALLEST_PREFIX} to {LARGEST_PREFIX}")
    return subnet


def parse_subnet6(text: str) -> IPv6Network:
    """The same for IPv6."""
    try:
        subnet = IPv6Network(text)
    except ValueError as error:
        raise ValueError(f"subnet {text!r}: {error}") from error
    if not SMALLEST_PREFIX6 <= subnet.prefixlen <= LARGEST_PREFIX6:
        raise ValueError(f"subnet {text!r}: prefix length is not {SMALLEST_PREFIX6} to {LARGEST_PREFIX6}")
    return subnet


Keep = Callable[[Sequence[Change]], None]
"""Writes rows; if they cannot be written now they will be."""


class AddressBook:
    """Addresses by pod, in two small tables of their own.

    For the thread of `connection` only. The first address of a range is the gateway's, never a pod's.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        subnet: IPv4Network,
        subnet6: IPv6Network | None = None,
        keep: Keep | None = None,
    ) -> None:
        """`keep` writes to the database of `connection`; without one it is written to right away."""
        self._connection = connection
        self._keep = keep or self._write
        self._ranges: tuple[Range, ...] = (subnet,) if subnet6 is None else (subnet, subnet6)
        self._prepare_tables()
        self._holdings: dict[SandboxId, Holding] = {}
        self._pods: dict[Address, SandboxId] = {}
        rows = connection.execute("SELECT pod, address, owner, mac FROM pod_address").fetchall()
        for pod, raw, owner, mac in sorted(rows, key=lambda row: len(row[1])):
            address = _unpacked(raw)
            held = self._holdings.get(SandboxId(pod), Holding(owner, (), mac))
            self._holdings[SandboxId(pod)] = Holding(owner, (*held.addresses, address), mac)
            self._pods[address] = SandboxId(pod)
        cursors = connection.execute("SELECT version, last FROM pod_address_cursor").fetchall()
        self._last = {version: int.from_bytes(last, "big") for version, last in cursors}

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges that new addresses come from: IPv4's, and IPv6's if there is one."""
        return self._ranges

    @property
    def gateways(self) -> tuple[Address, ...]:
        """Each range's first address: the bridge's own."""
        return tuple(network.network_address + 1 for network in self._ranges)

    def change_ranges(self, ranges: Sequence[Range]) -> None:
        """Hand out from others from now on; pods keep what they have."""
        self._ranges = tuple(sorted(ranges, key=lambda network: network.version))

    def reserve(self, pod: SandboxId, owner: str, wish: Wish = Wish()) -> Holding:
        """What the pod holds: new addresses unless it has some.

        Exhausted if all of a range are taken. InvalidRequest naming the annotation and the other pod for a
        wish that cannot be met.
        """
        held = self._holdings.get(pod)
        if held is not None:
            return held
        self._check_mac(wish.mac)
        wanted = {address.version: address for address in wish.addresses}
        for address in wish.addresses:
            self._check_wanted(address)
        chosen = tuple(
            wanted[network.version].ip if network.version in wanted else self._next_free(network)
            for network in self._ranges
        )
        holding = Holding(owner, chosen, wish.mac)
        cursors = [address for address in chosen if address.version not in wanted]
        self._keep(
            [
                *(
                    Change(("pod_address", one.packed), _RESERVE, (one.packed, pod, owner, wish.mac))
                    for one in chosen
                ),
                *(
                    Change(("pod_address_cursor", one.version), _MOVE_ON, (one.version, one.packed))
                    for one in cursors
                ),
            ]
        )
        self._holdings[pod] = holding
        self._pods.update(dict.fromkeys(chosen, pod))
        self._last.update({address.version: int(address) for address in cursors})
        return holding

    def release(self, pod: SandboxId) -> Holding | None:
        """Give back what the pod holds; None if that is nothing."""
        holding = self._holdings.get(pod)
        if holding is None:
            return None
        self._keep(
            [Change(("pod_address", one.packed), _RELEASE, (one.packed,)) for one in holding.addresses]
        )
        del self._holdings[pod]
        for address in holding.addresses:
            del self._pods[address]
        return holding

    def holding(self, pod: SandboxId) -> Holding | None:
        """What the pod holds."""
        return self._holdings.get(pod)

    def all(self) -> Mapping[SandboxId, Holding]:
        """Everything that is held, by pod; it changes with the book."""
        return MappingProxyType(self._holdings)

    def held(self) -> Mapping[Address, SandboxId]:
        """The pod of each address that is held; it changes with the book."""
        return MappingProxyType(self._pods)

    def named(self, owner: str) -> Sequence[Address]:
        """The addresses of the pod NAMESPACE/NAME; of two that pass the name on, the younger's."""
        # Rows are few, questions rare, and callers keep the answers: no index.
        found = [holding for holding in self._holdings.values() if holding.owner == owner]
        return found[-1].addresses if found else ()

    def owner(self, address: Address) -> str:
        """NAMESPACE/NAME of the pod that holds an address; empty if that is not known."""
        pod = self._pods.get(address)
        return "" if pod is None else self._holdings[pod].owner

    def describe(self, address: Address) -> str:
        """The pod that holds an address, for a message."""
        pod = self._pods.get(address)
        if pod is None:
            return f"the pod at {address}"
        owner = self.owner(address)
        return f"pod {owner} ({pod})" if owner else f"pod {pod}"

    def _check_wanted(self, wanted: Interface) -> None:
        field, address = field_of(IPS_ANNOTATION), wanted.ip
        network = next((one for one in self._ranges if one.version == address.version), None)
        if network is None or address not in network:
            raise InvalidRequest(
                f"{address} is not in the bridge's ranges: {', '.join(map(str, self._ranges))}", field=field
            )
        if wanted.network.prefixlen not in {network.prefixlen, address.max_prefixlen}:
            raise InvalidRequest(f"{wanted} is not of the prefix length of {network}", field=field)
        if address in self.gateways or address in {network.network_address, network.broadcast_address}:
            raise InvalidRequest(f"{address} is never a pod's: {network} needs it itself", field=field)
        if address in self._pods:
            raise InvalidRequest(f"{address} is held by {self.describe(address)}", field=field)

    def _check_mac(self, mac: str) -> None:
        if mac.startswith(OWN_MAC):
            raise InvalidRequest(
                f"{mac} begins as those that are derived from addresses", field=field_of(MAC_ANNOTATION)
            )
        other = next((held for held in self._holdings.values() if mac and held.mac == mac), None)
        if other is not None:
            text = f"{mac} is held by {self.describe(other.addresses[0])}"
            raise InvalidRequest(text, field=field_of(MAC_ANNOTATION))

    def _next_free(self, network: Range) -> Address:
        first = int(network.network_address) + 2
        span = network.num_addresses - 3
        last = self._last.get(network.version, 0)
        start = last + 1 if first <= last < first + span - 1 else first
        # One more candidate than there are holders is always enough to find a hole.
        for step in range(min(span, len(self._pods) + 1)):
            candidate = network[2 + (start - first + step) % span]
            if candidate not in self._pods:
                return candidate
        raise Exhausted(f"no free address for a pod in {network}: all {span} are taken")

    def _prepare_tables(self) -> None:
        for statement in _SCHEMA:
            self._connection.execute(statement)
        self._connection.commit()
        there = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        if (_OLD_TABLES[0],) not in there:
            return
        # Of versions that knew IPv4 only, with addresses as numbers.
        with self._transaction():
            rows = self._connection.execute("SELECT address, pod FROM network_address").fetchall()
            self._connection.executemany(
                "INSERT OR IGNORE INTO pod_address (address, pod, owner, mac) VALUES (?, ?, '', '')",
                [(IPv4Address(number).packed, pod) for number, pod in rows],
            )
            cursors = self._connection.execute("SELECT last FROM network_cursor").fetchall()
            self._connection.executemany(
                "INSERT OR IGNORE INTO pod_address_cursor (version, last) VALUES (4, ?)",
                [(IPv4Address(number).packed,) for (number,) in cursors],
            )
            for table in _OLD_TABLES:
                self._connection.execute(f"DROP TABLE {table}")

    def _write(self, changes: Sequence[Change]) -> None:
        with self._transaction():
            for change in changes:
                self._connection.execute(change.sql, change.values)

    def _transaction(self) -> sqlite3.Connection:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        return self._connection


def pods_on_record(connection: sqlite3.Connection) -> int:
    """How many pods hold addresses, also where the bridge is not in use."""
    for statement in _SCHEMA:
        connection.execute(statement)
    return int(connection.execute("SELECT count(DISTINCT pod) FROM pod_address").fetchone()[0])


def interfaces_of(addresses: Sequence[Address], ranges: Sequence[Range]) -> tuple[Interface, ...]:
    """The addresses with the prefix lengths of the ranges that they are in; others are left out."""
    return tuple(
        ip_interface((address, network.prefixlen))
        for address in addresses
        for network in ranges
        if address in network
    )


def mac_of(address: Address) -> str:
    """A locally administered MAC derived from an IPv4 address: a remembered ARP entry is never wrong."""
    return OWN_MAC + address.packed[-4:].hex(":")


def link_local_of(mac: str) -> IPv6Address:
    """The link-local address that the kernel gives an interface with that MAC (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:])


def _unpacked(raw: bytes) -> Address:
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
