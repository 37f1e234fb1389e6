"""Who may send in whose name: an nftables table of family bridge, which sees each frame that a pod sends.

An interface group marks the ports of pods. From such a port only frames with the pod's own MAC and one of its
own addresses pass. What does not pass:

* ARP and neighbour advertisements for another's address
* frames of other protocols than IP and ARP, and VLAN tags
* messages of a router or a DHCP server

So a pod takes nobody's address and is nobody's gateway, whatever runs in it. The rules are fixed; a pod adds
elements to sets. A port without elements passes nothing.

Elements are added by messages of our own and on the thread that makes the pod's pair (`host.nftables`).

The hook is the bridge's and not the interface's own (family netdev): what comes back from the shaper of a pod
with a limit has passed that one by.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from crib.backends.network.bridge.addresses import Address, Holding, link_local_of
from crib.backends.network.bridge.link import host_link_name, port_group
from crib.host.links import INTERFACE_NAME_BYTES, mac_bytes
from crib.host.netlink import NETLINK_NETFILTER, Netlink
from crib.host.nftables import Keys, add_elements, delete_elements
from crib.model.ids import SandboxId

FAMILY = "bridge"
_SETS = {
    "senders": "type ifname . ether_addr . ipv4_addr",
    "senders6": "type ifname . ether_addr . ipv6_addr",
    # The target of a neighbour advertisement (RFC 4861, section 4.4), which older nft has no name for.
    "targets6": "typeof meta iifname . @th,64,128",
}

Elements = dict[str, frozenset[tuple[str, ...]]]
"""By set; each field as the kernel's listing has it, but for numbers."""


@dataclass(frozen=True, slots=True)
class Sender:
    """What a pod may send as: by its port of the bridge, with this MAC, from these addresses."""

    port: str
    mac: str
    addresses: tuple[Address, ...]


def sender_of(pod: SandboxId, holding: Holding) -> Sender:
    """What a pod that holds this may send as."""
    return Sender(host_link_name(pod), holding.link_mac, holding.addresses)


class Senders:
    """Who may send now: the sets in the kernel and their mirror. For any thread but the loop's, as whoever
    holds the lock asks the kernel; OSError from the kernel."""

    def __init__(self, table: str) -> None:
        self.gap = ""
        """Why the kernel cannot do this; empty: it can."""
        self.lock = threading.RLock()
        """Held while sets and mirror differ."""
        self._table = table
        self._admitted: set[Sender] = set()
        self._netlink: Netlink | None = None

    @property
    def elements(self) -> Elements:
        """What the sets must hold."""
        return elements(() if self.gap else self._admitted)

    def become(self, senders: Collection[Sender]) -> None:
        """These may send; whoever makes the table fills the sets accordingly."""
        with self.lock:
            self._admitted = set(senders)

    def admit(self, sender: Sender) -> None:
        """Let a pod send."""
        with self.lock:
            if sender not in self._admitted:
                self._change(add_elements, elements((sender,)))
                self._admitted.add(sender)

    def dismiss(self, sender: Sender) -> None:
        """Let a pod send no more; it need not have been let."""
        with self.lock:
            wanted = elements((sender,))
            try:
                self._change(delete_elements, wanted)
            except OSError:
                # Somebody else removed some of them, and a transaction is all or nothing.
                for name, found in wanted.items():
                    for one in found:
                        with contextlib.suppress(FileNotFoundError):
                            self._change(delete_elements, {name: frozenset((one,))})
            self._admitted.discard(sender)

    def close(self) -> None:
        """Close the socket; the sets stay, as the pods do."""
        with self.lock:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

    def _change(self, change: Callable[[Netlink, str, str, Keys], None], wanted: Elements) -> None:
        if not self.gap:
            self._netlink = self._netlink or Netlink(NETLINK_NETFILTER)
            change(self._netlink, FAMILY, self._table, keys_of(wanted))


def ruleset(table: str, bridge: str, wanted: Elements) -> str:
    """Commands that make the table what it must be, whatever it was."""
    sets = "\n".join(f"add set bridge {table} {name} {{ {kind}; }}" for name, kind in _SETS.items())
    flush = "\n".join(f"flush set bridge {table} {name}" for name in _SETS)
    add = f"add rule bridge {table} from_pods"
    return f"""
add table bridge {table}
{sets}
add chain bridge {table} from_pods {{ type filter hook prerouting priority -300; policy accept; }}
flush chain bridge {table} from_pods
{flush}
{add} iifgroup != {port_group(bridge)} accept
{add} ether type != {{ ip, ip6, arp }} drop
{add} udp sport {{ 67, 547 }} udp dport {{ 68, 546 }} drop
{add} iifname . ether saddr . ip saddr @senders accept
{add} iifname . ether saddr . arp saddr ip @senders iifname . arp saddr ether . arp saddr ip @senders accept
{add} icmpv6 type {{ nd-router-advert, nd-redirect }} drop
{add} icmpv6 type nd-neighbor-advert meta iifname . @th,64,128 != @targets6 drop
{add} iifname . ether saddr . ip6 saddr @senders6 accept
{add} drop
{_commands(table, wanted)}
"""


def _commands(table: str, wanted: Elements) -> str:
    """What adds the elements, in nft's language."""
    return "\n".join(
        f"add element bridge {table} {name} {{ {', '.join(' . '.join(one) for one in sorted(found))} }}"
        for name, found in wanted.items()
        if found
    )


def elements(senders: Collection[Sender]) -> Elements:
    """The elements that let these pods send."""
    found: dict[str, set[tuple[str, ...]]] = {name: set() for name in _SETS}
    for sender in senders:
        for address in (*sender.addresses, link_local_of(sender.mac)):
            if address.version == 4:
                found["senders"].add((sender.port, sender.mac, str(address)))
            else:
                found["senders6"].add((sender.port, sender.mac, str(address)))
                found["targets6"].add((sender.port, hex(int(address))))
    return {name: frozenset(of_set) for name, of_set in found.items()}


def keys_of(wanted: Elements) -> Keys:
    """The elements as the kernel's messages have them."""
    return {name: [_key(name, *one) for one in found] for name, found in wanted.items()}


def _key(name: str, port: str, *rest: str) -> bytes:
    raw = port.encode().ljust(INTERFACE_NAME_BYTES + 1, b"\0")
    if name == "targets6":
        return raw + int(rest[0], 0).to_bytes(16, "big")
    mac, address = rest
    return raw + mac_bytes(mac) + bytes(2) + ip_address(address).packed


def parse(sets: Mapping[str, frozenset[tuple[str, ...]]]) -> Elements:
    """The elements that a table's sets hold."""
    return {name: sets.get(name, frozenset()) for name in _SETS}
