"""The built-in bridge's nftables tables: masquerade, host ports, guard of the host, isolation; who may send.

The rules are fixed and made once; a pod only adds elements to maps and sets, so ports that nobody asked for
cost nothing. This process is their only writer and mirrors them in memory: it checks there (a command that
the kernel refuses costs 10–30 ms), and can put everything back when somebody flushes it.
"""

from __future__ import annotations

import asyncio
import errno
import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeVar

from crib.backends.network.bridge import senders as who
from crib.backends.network.bridge.addresses import Address, Holding, Range
from crib.backends.network.bridge.forward_policy import dropped_by
from crib.backends.network.bridge.host_ports import (
    SCTP,
    UDP,
    Forwards,
    HostPort,
    conflict,
    elements,
    parse_maps,
)
from crib.backends.network.bridge.link import port_group
from crib.host.conntrack import forget_connections_to_port
from crib.host.nftables import Nftables, TableContents, check_table_name
from crib.host.threads import OURS, Job
from crib.model.errors import Unavailable
from crib.model.ids import SandboxId
from crib.model.settings import NetworkSettings

T = TypeVar("T")

NFTABLES_SECONDS = 30.0
"""For one command; what was asked before may take as long."""
_CHAINS = ("host_ports", "guard", "prerouting", "output", "forward", "postrouting")


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """`isolated`: pods of the bridge reach each other through host ports only.

    `native`: networks beyond the host that pods reach with their own addresses.
    """

    table: str
    bridge: str
    isolated: bool = False
    native: tuple[Range, ...] = ()

    @classmethod
    def of(cls, settings: NetworkSettings) -> RuleSettings:
        """The table is named for the bridge, so that two daemons of one host do not share it."""
        table = "crib_" + re.sub(r"[^A-Za-z0-9]", "_", settings.bridge)
        native = tuple(map(ip_network, settings.native_ranges))
        return cls(table, settings.bridge, settings.isolation == "pods", native)


@dataclass(frozen=True, slots=True)
class Contents:
    """Both tables as the kernel has them; None for one that is not there."""

    inet: TableContents | None
    bridge: TableContents | None

    @property
    def forwards(self) -> Forwards:
        """Which ports of the host lead where."""
        return {} if self.inet is None else parse_maps(self.inet.maps)

    @property
    def senders(self) -> who.Elements:
        """Who may send."""
        return who.parse({} if self.bridge is None else self.bridge.sets)

    @property
    def fixed(self) -> tuple[object, ...]:
        """What no pod changes: rules, and the ranges of addresses."""
        inet, bridge = self.inet, self.bridge
        return (inet and (inet.rules, inet.sets), bridge and bridge.rules)


def ruleset(settings: RuleSettings, ranges: Collection[Range], forwards: Forwards) -> str:
    """Commands that make the table of family inet what it must be, whatever it was.

    The guard drops what pods send from addresses that are no pod's: nothing masquerades these. It also drops
    what comes by a pod's port and not by the bridge: frames to 01:80:c2:00:00:0X, which pass all other rules.

    Only what goes to an address of the host (fib … type local) is led to a pod, whatever its port: else a
    pod with port 443 would get everybody's traffic to port 443 anywhere (CVE-2025-67499).
    """
    table, bridge = settings.table, settings.bridge
    flush = "\n".join(f"flush chain inet {table} {chain}" for chain in _CHAINS)
    return f"""
add table inet {table}
add map inet {table} ports_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
add map inet {table} ports_ip {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
add map inet {table} ports6_any {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
add map inet {table} ports6_ip {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
add set inet {table} pods {{ type ipv4_addr; flags interval; }}
add set inet {table} pods6 {{ type ipv6_addr; flags interval; }}
add set inet {table} native {{ type ipv4_addr; flags interval; auto-merge; }}
add set inet {table} native6 {{ type ipv6_addr; flags interval; auto-merge; }}
add chain inet {table} host_ports
add chain inet {table} guard {{ type filter hook prerouting priority -300; policy accept; }}
add chain inet {table} prerouting {{ type nat hook prerouting priority -100; policy accept; }}
add chain inet {table} output {{ type nat hook output priority -100; policy accept; }}
add chain inet {table} forward {{ type filter hook forward priority 0; policy accept; }}
add chain inet {table} postrouting {{ type nat hook postrouting priority 100; policy accept; }}
{flush}
flush set inet {table} pods
flush set inet {table} pods6
flush set inet {table} native
flush set inet {table} native6
flush map inet {table} ports_any
flush map inet {table} ports_ip
flush map inet {table} ports6_any
flush map inet {table} ports6_ip
{_set_elements(table, "pods", ranges)}
{_set_elements(table, "native", settings.native)}
add rule inet {table} guard iifname "{bridge}" ip daddr 127.0.0.0/8 drop
add rule inet {table} guard iifname "{bridge}" ip saddr 127.0.0.0/8 drop
add rule inet {table} guard iifname "{bridge}" ip6 daddr ::1 drop
add rule inet {table} guard iifname "{bridge}" ip6 saddr ::1 drop
add rule inet {table} guard iifgroup {port_group(bridge)} drop
add rule inet {table} guard iifname "{bridge}" ip saddr != @pods drop
add rule inet {table} guard iifname "{bridge}" ip6 saddr != fe80::/10 ip6 saddr != @pods6 drop
add rule inet {table} host_ports ip6 daddr ::1 return
add rule inet {table} host_ports dnat ip to ip daddr . meta l4proto . th dport map @ports_ip
add rule inet {table} host_ports dnat ip to meta l4proto . th dport map @ports_any
add rule inet {table} host_ports dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6_ip
add rule inet {table} host_ports dnat ip6 to meta l4proto . th dport map @ports6_any
add rule inet {table} prerouting fib daddr type local jump host_ports
add rule inet {table} output fib daddr type local jump host_ports
{_isolation(settings)}
add rule inet {table} postrouting ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
add rule inet {table} postrouting ip saddr @pods ip daddr @pods ct status dnat masquerade
add rule inet {table} postrouting ip6 saddr @pods6 ip6 daddr @pods6 ct status dnat masquerade
add rule inet {table} postrouting ip saddr @pods ip daddr != @pods ip daddr != @native \
ip daddr != 224.0.0.0/4 oifname != "{bridge}" masquerade
add rule inet {table} postrouting ip6 saddr @pods6 ip6 daddr != @pods6 ip6 daddr != @native6 \
ip6 daddr != ff00::/8 oifname != "{bridge}" masquerade
{elements("add", table, forwards)}
"""


def _set_elements(table: str, name: str, ranges: Collection[Range]) -> str:
    """Commands that fill the set of that name with IPv4 ranges, and NAME6 with IPv6 ones."""
    listed = {4: "", 6: ""}
    for version in listed:
        listed[version] = ", ".join(sorted(str(one) for one in ranges if one.version == version))
    return "\n".join(
        f"add element inet {table} {name}{suffix} {{ {listed[version]} }}"
        for version, suffix in ((4, ""), (6, "6"))
        if listed[version]
    )


def _isolation(settings: RuleSettings) -> str:
    """Blocks it by way of the host and, where br_netfilter shows it, from port to port."""
    if not settings.isolated:
        return ""
    between = (
        f'add rule inet {settings.table} forward iifname "{settings.bridge}" oifname "{settings.bridge}"'
    )
    return f"{between} ct status dnat accept\n{between} drop"


class Rules:
    """The tables in the kernel. OSError (NftablesError) when the kernel refuses."""

    def __init__(self, settings: RuleSettings) -> None:
        check_table_name(settings.table)
        self.senders = who.Senders(settings.table)
        self._settings = settings
        self.table = settings.table
        self._forwards: Forwards = {}
        self._made: Contents | None = None
        self._found_whole: tuple[int, Forwards, who.Elements] | None = None
        """The generation of the kernel's tables in which all was there, and what that was."""
        self._lock = asyncio.Lock()
        self._nftables: Nftables | None = None
        self._one_at_a_time = threading.Lock()  # a libnftables context is not for two threads at once

    async def install(self, ranges: Collection[Range], holdings: Mapping[SandboxId, Holding]) -> None:
        """Make the rules again for the pods that hold addresses, with the forwards in the kernel to these."""
        async with self._lock:
            await self._in_thread(self._look_for_gap)
            held = {address for holding in holdings.values() for address in holding.addresses}
            found = await self._in_thread(self._contents)
            self._forwards = {key: to for key, to in found.forwards.items() if to.address in held}
            senders = [who.sender_of(pod, holding) for pod, holding in holdings.items()]
            await self._in_thread(lambda: self.senders.become(senders))
            await self._in_thread(lambda: self._make(ranges, "install rules"))

    async def adopt(self) -> None:
        """Read the forwards in the kernel, whoever made them; make nothing."""
        async with self._lock:
            if self._made is None:
                self._forwards = (await self._in_thread(self._contents)).forwards

    async def restore_if_lost(self, ranges: Collection[Range]) -> bool:
        """Put rules, sets and maps back if somebody changed some of them; True if that was needed."""

        def restore() -> bool:
            with self.senders.lock:
                # First: what is changed after this is seen the next time.
                now = self._context().generation(), dict(self._forwards), self.senders.elements
                if now == self._found_whole:
                    return False
                if self._is_whole(self._contents()):
                    self._found_whole = now
                    return False
                self._make(ranges, "restore rules")
                return True

        async with self._lock:
            return await self._in_thread(restore)

    async def problems(self, sender: who.Sender, wanted: Forwards) -> list[str]:
        """What is not as it was made: the rules, and what of a pod's elements is not there."""
        async with self._lock:
            found = await self._in_thread(self._contents)
            present = found.forwards
            problems = [
                f"host port {key} does not lead to it" for key, to in wanted.items() if present.get(key) != to
            ]
            must = who.elements(() if self.senders.gap else (sender,))
            if any(of_set - found.senders[name] for name, of_set in must.items()):
                problems.append("it may not send")
            if found.inet is None or not self._has_rules(found):
                state = "gone" if found.inet is None else "changed"
                problems.append(f"nftables table {self.table} is {state}")
            return problems

    async def add(self, forwards: Forwards, describe: Callable[[Address], str]) -> None:
        """Lead these ports to a pod. Unavailable naming port and pod if one leads to another already."""
        async with self._lock:
            own = {target.address for target in forwards.values()}
            taken = conflict(forwards, self._forwards, own)
            if taken is not None:
                key, target = taken
                raise Unavailable(f"host port {key} already leads to {describe(target.address)}")
            new = {key: to for key, to in forwards.items() if self._forwards.get(key) != to}
            stale = {key: self._forwards[key] for key in new if key in self._forwards}
            if new:
                commands = elements("delete", self.table, stale) + "\n" + elements("add", self.table, new)
                await self._run(commands, f"add host ports {', '.join(map(str, new))}")
                self._forwards.update(new)
                await self._forget_tracked(new)

    async def remove(self, addresses: Collection[Address]) -> Forwards:
        """Remove all forwards to a pod, none is fine; those that were there."""
        return await self._remove(lambda address: address in addresses)

    async def remove_but(self, held: Collection[Address]) -> Forwards:
        """Remove the forwards to addresses that are not in `held`; those that were there."""
        return await self._remove(lambda address: address not in held)

    async def beyond(self, held: Collection[Address]) -> Forwards:
        """The forwards in the kernel to addresses that are not in `held`."""
        return {key: to for key, to in (await self.in_kernel()).items() if to.address not in held}

    async def in_kernel(self) -> Forwards:
        """What leads where, as the kernel has it."""
        async with self._lock:
            return (await self._in_thread(self._contents)).forwards

    async def dropped_by(self, ranges: Collection[Range]) -> str:
        """The chain of another table that drops what pods send beyond the host; empty if none does."""
        marks = (self._settings.bridge, *(str(one.network_address) for one in ranges))
        versions = {one.version for one in ranges}
        return await self._in_thread(lambda: dropped_by(self._context(), self.table, versions, marks))

    async def uninstall(self) -> None:
        """Delete the tables. They need not be there."""
        async with self._lock:
            await self._in_thread(self._look_for_gap)
            for family in ("inet",) if self.senders.gap else ("inet", who.FAMILY):
                # Adding it first makes the deletion succeed where it is not there.
                commands = f"add table {family} {self.table}\ndelete table {family} {self.table}\n"
                await self._run(commands, "remove rules")
            self._forwards = {}
            await self._in_thread(lambda: self.senders.become(()))

    async def close(self) -> None:
        """Free the context; the rules stay, as the pods do."""
        async with self._lock:
            if self._nftables is not None:
                await self._in_thread(self._nftables.close)
            await self._in_thread(self.senders.close)

    def _look_for_gap(self) -> None:
        try:
            self._context().run(f"add table {who.FAMILY} {self.table}", table=self.table, what="add table")
            self.senders.gap = ""
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.senders.gap = "pods can send in each other's name: the kernel lacks CONFIG_NF_TABLES_BRIDGE"

    def _make(self, ranges: Collection[Range], what: str) -> None:
        """Make both tables in one transaction."""
        with self.senders.lock:
            commands = ruleset(self._settings, ranges, self._forwards)
            if not self.senders.gap:
                commands = who.ruleset(self.table, self._settings.bridge, self.senders.elements) + commands
            self._context().run(commands, table=self.table, what=what)
            self._made = self._contents()

    async def _remove(self, is_gone: Callable[[Address], bool]) -> Forwards:
        async with self._lock:
            gone = {key: to for key, to in self._forwards.items() if is_gone(to.address)}
            if gone:
                try:
                    await self._run(elements("delete", self.table, gone), "remove host ports")
                except OSError:
                    # Somebody else removed some of them, and a transaction is all or nothing.
                    present = (await self._in_thread(self._contents)).forwards
                    left = {key: to for key, to in gone.items() if key in present}
                    if left:
                        await self._run(elements("delete", self.table, left), "remove host ports")
                for key in gone:
                    del self._forwards[key]
                await self._forget_tracked(gone)
            return gone

    async def _forget_tracked(self, keys: Collection[HostPort]) -> None:
        """Clients of UDP and SCTP that go on sending would follow the way that was tracked before."""
        ports = {(key.address.version, key.protocol, key.port) for key in keys if key.protocol in (UDP, SCTP)}
        if ports:
            await self._in_thread(lambda: [forget_connections_to_port(*port) for port in ports])

    async def _run(self, commands: str, what: str) -> None:
        await self._in_thread(lambda: self._context().run(commands, table=self.table, what=what))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def alone() -> T:
            if not self._one_at_a_time.acquire(timeout=NFTABLES_SECONDS):
                raise OSError(errno.ETIMEDOUT, "nftables is busy with what was asked before", self.table)
            try:
                return work()
            finally:
                self._one_at_a_time.release()

        table = f"nftables table {self.table}"
        return await OURS.run(Job(table, table, NFTABLES_SECONDS), alone)

    def _context(self) -> Nftables:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables

    def _contents(self) -> Contents:
        context = self._context()
        bridge = None if self.senders.gap else context.contents(self.table, who.FAMILY)
        return Contents(context.contents(self.table), bridge)

    def _is_whole(self, found: Contents) -> bool:
        return (
            found.inet is not None
            and self._has_rules(found)
            and (found.forwards, found.senders) == (self._forwards, self.senders.elements)
        )

    def _has_rules(self, found: Contents) -> bool:
        """Whether rules and ranges are those that were made; so too before anything was."""
        return self._made is None or found.fixed == self._made.fixed
