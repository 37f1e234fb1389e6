"""Which pod holds which address of the built-in bridge's range.

Addresses go round robin: one that was given back is handed out again only after all others, so that a
peer which still remembers it (ARP, conntrack, DNS) does not reach the wrong pod.
"""

from __future__ import annotations

import sqlite3
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from crib.model.errors import Exhausted
from crib.model.ids import SandboxId

SMALLEST_PREFIX: Final = 8
LARGEST_PREFIX: Final = 29

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS network_address (address INTEGER PRIMARY KEY, pod TEXT NOT NULL UNIQUE)",
    "CREATE TABLE IF NOT EXISTS network_cursor (only_row INTEGER PRIMARY KEY CHECK (only_row = 1),"
    " last INTEGER NOT NULL)",
)


def parse_subnet(text: str) -> IPv4Network:
    """A range to hand out from. ValueError naming what is wrong with it."""
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"subnet {text!r}: {error}") from error
    if not SMALLEST_PREFIX <= subnet.prefixlen <= LARGEST_PREFIX:
        raise ValueError(f"subnet {text!r}: prefix length is not {SMALLEST_PREFIX} to {LARGEST_PREFIX}")
    return subnet


class AddressBook:
    """Addresses by pod, in two small tables of their own; a reservation is on file when it is returned.

    For the thread of `connection` only. The first address of the range is the gateway's, never a pod's.
    """

    def __init__(self, connection: sqlite3.Connection, subnet: IPv4Network) -> None:
        self._connection = connection
        self._subnet = subnet
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.commit()
        rows = connection.execute("SELECT pod, address FROM network_address").fetchall()
        self._by_pod = {SandboxId(pod): IPv4Address(address) for pod, address in rows}
        self._taken = set(self._by_pod.values())
        row = connection.execute("SELECT last FROM network_cursor").fetchone()
        self._last: int = row[0] if row else 0

    @property
    def subnet(self) -> IPv4Network:
        """The range that new addresses come from."""
        return self._subnet

    @property
    def gateway(self) -> IPv4Address:
        """The range's first address: the bridge's own."""
        return self._subnet.network_address + 1

    def change_subnet(self, subnet: IPv4Network) -> None:
        """Hand out from another range from now on; pods keep what they have."""
        self._subnet = subnet

    def reserve(self, pod: SandboxId) -> IPv4Address:
        """The pod's address, a new one unless it has one. Exhausted if all are taken."""
        held = self._by_pod.get(pod)
        if held is not None:
            return held
        address = self._next_free()
        with self._transaction():
            self._connection.execute(
                "INSERT INTO network_address (address, pod) VALUES (?, ?)", (int(address), pod)
            )
            self._connection.execute(
                "INSERT OR REPLACE INTO network_cursor (only_row, last) VALUES (1, ?)", (int(address),)
            )
        self._by_pod[pod] = address
        self._taken.add(address)
        self._last = int(address)
        return address

    def release(self, pod: SandboxId) -> IPv4Address | None:
        """Give the pod's address back; None if it held none."""
        address = self._by_pod.get(pod)
        if address is None:
            return None
        with self._transaction():
            self._connection.execute("DELETE FROM network_address WHERE pod = ?", (pod,))
        del self._by_pod[pod]
        self._taken.discard(address)
        return address

    def address_of(self, pod: SandboxId) -> IPv4Address | None:
        """The address that the pod holds."""
        return self._by_pod.get(pod)

    def all(self) -> dict[SandboxId, IPv4Address]:
        """Every address that is held, by pod."""
        return dict(self._by_pod)

    def _next_free(self) -> IPv4Address:
        first = int(self._subnet.network_address) + 2
        last = int(self._subnet.broadcast_address) - 1
        span = last - first + 1
        start = self._last + 1 if first <= self._last < last else first
        # One more candidate than there are holders is always enough to find a hole.
        for step in range(min(span, len(self._taken) + 1)):
            candidate = IPv4Address(first + (start - first + step) % span)
            if candidate not in self._taken:
                return candidate
        raise Exhausted(f"no free address for a pod in {self._subnet}: all {span} are taken")

    def _transaction(self) -> sqlite3.Connection:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        return self._connection
