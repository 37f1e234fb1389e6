"""A pod of the built-in bridge that speaks in another's name: ARP, NDP, MACs and addresses not its own.

Whoever is root in a pod has CAP_NET_RAW by default, so each frame here is one that any container may send.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from crib.backends.network.bridge import senders
from crib.backends.network.bridge.addresses import link_local_of
from crib.backends.network.bridge.link import host_link_name
from crib.host import ip_settings, links
from crib.host.neighbours import permanent_neighbours
from crib.host.netlink import NETLINK_NETFILTER, Netlink
from crib.host.nftables import Nftables, NftablesError, add_elements, delete_elements
from crib.model.settings import NetworkSettings
from tests.system.labs import frames
from tests.system.labs.bridge_rig import Rig, add_uplink, host_socket, ip, nft, own_rig
from tests.system.labs.frames import (
    ALL_NODES,
    ARP,
    BROADCAST,
    IPV4,
    IPV6,
    UDP,
    Host,
    Wire,
    arp,
    frame,
    ip_packet,
    tagged,
)
from tests.system.labs.pod_namespaces import PodNamespace, echo_server, no_stage, peer_seen

pytestmark = [pytest.mark.root, pytest.mark.system]

FOREIGN = "203.0.113.7"
FOREIGN6 = "2001:db8::7"
EVIL = b"in another's name"
MARK = b"in my own name"
LIMITED = (("kubernetes.io/egress-bandwidth", "100M"),)
NEAREST_BRIDGE = "01:80:c2:00:00:0e"
"""What a bridge gives to the host by its port itself, and learns from before it asks any rule (LLDP)."""
TAKEN_SECONDS = 5.0


@dataclass
class Lab:
    """Two pods and the bridge between them."""

    rig: Rig
    attacker: PodNamespace
    victim: PodNamespace
    me: Host
    other: Host
    bridge: Host

    def send(self, *evil: bytes) -> None:
        with Wire(self.attacker) as wire:
            wire.send(*evil)


async def lab_on(rig: Rig, annotations: tuple[tuple[str, str], ...] = ()) -> Lab:
    attacker, victim = rig.namespaces.make(), rig.namespaces.make()
    me = Host.of(await rig.network.attach(attacker.pod(annotations=annotations), no_stage))
    other = Host.of(await rig.network.attach(victim.pod(), no_stage))
    bridge = frames.gateway(rig.settings.bridge, rig.gateway, rig.gateway6)
    return Lab(rig, attacker, victim, me, other, bridge)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with own_rig(tmp_path, dual=True) as rig:
        yield await lab_on(rig)


@pytest.fixture(params=["apart", "isolated by rules", "isolated by the bridge"])
async def each_lab(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    """With and without isolation."""
    if request.param == "isolated by the bridge":
        monkeypatch.setattr(ip_settings, "can_filter_bridged", lambda: False)
    settings = NetworkSettings(isolation="none" if request.param == "apart" else "pods")
    async with own_rig(tmp_path, dual=True, settings=settings) as rig:
        yield await lab_on(rig)


def datagram(source: str, to: str, text: bytes = EVIL) -> bytes:
    return ip_packet(source, to, UDP, frames.udp((7000, 7001), text))


def icmp(lab: Lab, source: str, kind: int, body: bytes) -> bytes:
    return ip_packet(source, "ff02::1", frames.ICMPV6, frames.icmpv6(kind, body))


def claim6(lab: Lab, target: str) -> bytes:
    return ip_packet(lab.me.ip6, "ff02::1", frames.ICMPV6, frames.advertisement(target, lab.me.mac))


def claim(lab: Lab, operation: int, address: str) -> bytes:
    return arp(operation, (lab.me.mac, address), (BROADCAST, address))


def router(lab: Lab) -> bytes:
    return icmp(lab, str(link_local_of(lab.me.mac)), 134, b"\x40\0\xff\xff" + bytes(8))


def redirect(lab: Lab) -> bytes:
    return icmp(lab, str(link_local_of(lab.me.mac)), 137, bytes(36))


def server(source: str, to: str, ports: tuple[int, int]) -> bytes:
    return ip_packet(source, to, UDP, frames.udp(ports, EVIL))


def mine(lab: Lab, to: str, kind: int, payload: bytes) -> bytes:
    """A frame with the attacker's own MAC."""
    return frame(to, lab.me.mac, kind, payload)


def near(who: Host) -> str:
    return str(link_local_of(who.mac))


ODD = "02:00:00:00:00:99"
GROUP, GROUP6, ALL = "224.0.0.1", "ff02::1", "255.255.255.255"
SPOOFED: dict[str, Callable[[Lab], bytes]] = {
    "ARP request as another": lambda lab: mine(lab, BROADCAST, ARP, claim(lab, 1, lab.other.ip)),
    "ARP reply as the gateway": lambda lab: mine(lab, BROADCAST, ARP, claim(lab, 2, lab.bridge.ip)),
    "ARP with another MAC inside": lambda lab: mine(
        lab, BROADCAST, ARP, arp(2, (ODD, lab.me.ip), (BROADCAST, lab.me.ip))
    ),
    "ARP with another MAC outside": lambda lab: frame(BROADCAST, ODD, ARP, claim(lab, 2, lab.me.ip)),
    "NDP for another's address": lambda lab: mine(lab, ALL_NODES, IPV6, claim6(lab, lab.other.ip6)),
    "NDP for the gateway": lambda lab: mine(lab, ALL_NODES, IPV6, claim6(lab, lab.bridge.ip6)),
    "NDP for a link-local address": lambda lab: mine(lab, ALL_NODES, IPV6, claim6(lab, near(lab.other))),
    "NDP behind an extension header": lambda lab: mine(
        lab, ALL_NODES, IPV6, frames.behind_options(claim6(lab, lab.bridge.ip6))
    ),
    "router advertisement (CVE-2020-10749)": lambda lab: mine(lab, ALL_NODES, IPV6, router(lab)),
    "redirect": lambda lab: mine(lab, ALL_NODES, IPV6, redirect(lab)),
    "DHCP server": lambda lab: mine(lab, BROADCAST, IPV4, server(lab.me.ip, ALL, (67, 68))),
    "DHCPv6 server": lambda lab: mine(lab, ALL_NODES, IPV6, server(near(lab.me), GROUP6, (547, 546))),
    "MAC of another": lambda lab: frame(BROADCAST, lab.other.mac, IPV4, datagram(lab.me.ip, GROUP)),
    "address of the gateway": lambda lab: mine(lab, BROADCAST, IPV4, datagram(lab.bridge.ip, GROUP)),
    "address of another": lambda lab: mine(lab, BROADCAST, IPV4, datagram(lab.other.ip, GROUP)),
    "foreign address": lambda lab: mine(lab, BROADCAST, IPV4, datagram(FOREIGN, GROUP)),
    "foreign IPv6 address": lambda lab: mine(lab, ALL_NODES, IPV6, datagram(FOREIGN6, GROUP6)),
    "link-local address": lambda lab: mine(lab, ALL_NODES, IPV6, datagram(near(lab.other), GROUP6)),
    "VLAN tag": lambda lab: tagged(mine(lab, BROADCAST, IPV4, datagram(FOREIGN, GROUP)), 7),
    "priority tag": lambda lab: tagged(mine(lab, BROADCAST, ARP, claim(lab, 2, lab.bridge.ip)), 0),
    "another protocol": lambda lab: mine(lab, BROADCAST, 0x88B5, EVIL),
}


@pytest.mark.parametrize("what", SPOOFED)
async def test_what_a_pod_sends_in_anothers_name_comes_neither_to_pods_nor_to_the_host(
    lab: Lab, what: str
) -> None:
    await filtered(lab, what)


async def filtered(lab: Lab, what: str) -> None:
    with Wire(lab.victim) as pod, Wire(interface=lab.rig.settings.bridge) as host:
        evil = SPOOFED[what](lab)
        lab.send(evil, frame(BROADCAST, lab.me.mac, IPV4, datagram(lab.me.ip, "224.0.0.1", MARK)))
        # A packet socket has no tags in its data.
        shown = evil[:12] + evil[16:] if evil[12:14] == b"\x81\0" else evil
        for wire in (pod, host):
            assert shown not in await wire.seen_before(MARK)


async def test_a_pod_with_a_limit_is_filtered_too(tmp_path: Path) -> None:
    async with own_rig(tmp_path, dual=True) as rig:
        lab = await lab_on(rig, LIMITED)
        await filtered(lab, "ARP reply as the gateway")


async def reached(client: socket.socket, address: str, port: int = 80) -> str:
    return await peer_seen(client, address, port, TAKEN_SECONDS)


def v6_socket(namespace: PodNamespace) -> socket.socket:
    return namespace.inside(lambda: socket.socket(socket.AF_INET6))


async def take_over(lab: Lab, taken: Host) -> None:
    """Everything that makes others send to the attacker what is for `taken`."""
    me = lab.me
    lab.send(
        *(
            frame(to, me.mac, ARP, arp(operation, (me.mac, taken.ip), (to, whom)))
            for to in (BROADCAST, lab.bridge.mac, lab.other.mac)
            for operation in (1, 2)
            for whom in (taken.ip, lab.bridge.ip, lab.other.ip)
        ),
        frame(ALL_NODES, me.mac, IPV6, claim6(lab, taken.ip6)),
        *(
            frame(to, taken.mac, kind, EVIL)
            for to in (BROADCAST, NEAREST_BRIDGE, "01:80:c2:00:00:03")
            for kind in (0x88CC, IPV4)
        ),
    )
    # The attacker has been heard.
    async with echo_server(host_socket(), lab.bridge.ip, 7009):
        assert await reached(lab.attacker.socket(), lab.bridge.ip, 7009) == me.ip


async def tapped(lab: Lab, wire: Wire) -> list[bytes]:
    """What came to the attacker's MAC until now and is of the victim's connections."""
    with host_socket(socket.SOCK_DGRAM) as client:
        client.sendto(MARK, (lab.me.ip, 7001))
    victims = [ip_address(text).packed for text in (lab.other.ip, lab.other.ip6)]
    return [
        one
        for one in await wire.seen_before(MARK)
        if one[:6] == frames.raw(lab.me.mac) and frames.is_tcp(one) and any(of in one for of in victims)
    ]


async def test_a_pod_takes_no_other_pods_inbound_traffic(each_lab: Lab) -> None:
    await keeps_its_traffic(each_lab)


async def keeps_its_traffic(lab: Lab) -> None:
    """The attacker gets nothing of it; it might pass it on, so that nobody else would notice."""
    async with (
        echo_server(lab.victim.socket(), lab.other.ip, 80),
        echo_server(v6_socket(lab.victim), lab.other.ip6, 80),
    ):
        assert await reached(host_socket(), lab.other.ip) == lab.bridge.ip
        with Wire(lab.attacker) as wire:
            await take_over(lab, lab.other)
            assert await reached(host_socket(), lab.other.ip) == lab.bridge.ip
            assert await reached(host_socket(v6=True), lab.other.ip6) == lab.bridge.ip6
            assert await tapped(lab, wire) == []


async def test_a_pod_does_not_become_the_gateway_of_another(each_lab: Lab) -> None:
    await keeps_its_gateway(each_lab)


async def keeps_its_gateway(lab: Lab) -> None:
    async with (
        echo_server(host_socket(), lab.bridge.ip, 7000),
        echo_server(host_socket(v6=True), lab.bridge.ip6, 7000),
    ):
        assert await reached(lab.victim.socket(), lab.bridge.ip, 7000) == lab.other.ip
        with Wire(lab.attacker) as wire:
            await take_over(lab, lab.bridge)
            assert await reached(lab.victim.socket(), lab.bridge.ip, 7000) == lab.other.ip
            assert await reached(v6_socket(lab.victim), lab.bridge.ip6, 7000) == lab.other.ip6
            assert await tapped(lab, wire) == []


async def test_a_pod_does_not_get_between_two_others(lab: Lab) -> None:
    third = lab.rig.namespaces.make()
    seen = Host.of(await lab.rig.network.attach(third.pod(), no_stage))
    async with (
        echo_server(lab.victim.socket(), lab.other.ip, 80),
        echo_server(v6_socket(lab.victim), lab.other.ip6, 80),
    ):
        with Wire(lab.attacker) as wire:
            for _ in range(2):
                assert await reached(third.socket(), lab.other.ip) == seen.ip
                assert await reached(v6_socket(third), lab.other.ip6) == seen.ip6
                await take_over(lab, lab.other)
            assert await tapped(lab, wire) == []


async def outside_of(lab: Lab) -> PodNamespace:
    """Somebody beyond the host, in 10.250.0.0/24 and fd44::/64."""
    outside = lab.rig.namespaces.make()
    add_uplink("uplink0")
    ip(f"link set uplink0p netns {outside.path}")
    ip("addr add 10.250.0.1/24 dev uplink0")
    ip("addr add fd44::1/64 dev uplink0 nodad")
    outside.inside(lambda: ip("addr add 10.250.0.2/24 dev uplink0p"))
    outside.inside(lambda: ip("addr add fd44::2/64 dev uplink0p nodad"))
    outside.inside(lambda: ip("link set uplink0p up"))
    return outside


@pytest.mark.parametrize("keeper", ["both", "the guard alone", "the filter alone"])
async def test_no_packet_with_a_foreign_source_leaves_the_host_unmasqueraded(lab: Lab, keeper: str) -> None:
    outside = await outside_of(lab)
    table = lab.rig.table
    if keeper == "the guard alone":
        nft(f"flush chain bridge {table} from_pods")
    if keeper == "the filter alone":
        nft(f"flush chain inet {table} guard")
    async with echo_server(outside.socket(), "10.250.0.2", 80):  # so that nobody has to ask for MACs later
        assert await reached(lab.attacker.socket(), "10.250.0.2") == "10.250.0.1"
    with Wire(outside, "uplink0p") as wire:
        evil = [
            frame(lab.bridge.mac, lab.me.mac, kind, datagram(source, to))
            for kind, source, to in ((IPV4, FOREIGN, "10.250.0.2"), (IPV6, FOREIGN6, "fd44::2"))
        ]
        good = frame(lab.bridge.mac, lab.me.mac, IPV4, datagram(lab.me.ip, "10.250.0.2", MARK))
        lab.send(*evil, good)
        assert not [one for one in await wire.seen_before(MARK) if EVIL in one]


async def test_a_pod_does_not_reach_the_host_past_the_rules_by_frames_to_its_nearest_bridge(lab: Lab) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server_:
        server_.bind((lab.bridge.ip, 7001))
        server_.setblocking(False)
        evil = [
            frame(f"01:80:c2:00:00:{last:02x}", lab.me.mac, IPV4, datagram(FOREIGN, lab.bridge.ip))
            for last in range(16)
        ]
        good = frame(lab.bridge.mac, lab.me.mac, IPV4, datagram(lab.me.ip, lab.bridge.ip, MARK))
        lab.send(*evil, good)
        assert await frames.received(server_) == MARK


async def test_pods_that_an_older_version_attached_are_filtered_and_known_after_a_restart(lab: Lab) -> None:
    network, table, bridge = lab.rig.network, lab.rig.table, lab.rig.settings.bridge
    await network.close()
    lab.rig.networks.clear()
    nft(f"delete table bridge {table}", f"flush chain inet {table} guard")
    for namespace, who in ((lab.attacker, lab.me), (lab.victim, lab.other)):
        port = next(name for name in lab.rig.port_names() if is_port_of(name, namespace))
        ip(f"link set {port} group 0 type bridge_slave learning on flood on")
        ip(f"neigh del {who.ip} dev {bridge}")
        ip(f"neigh del {who.ip6} dev {bridge}")
        namespace.inside(lambda: ip("neigh flush dev eth0 nud permanent"))
    restarted = lab.rig.restarted()
    assert "is not filtered" in await restarted.check(lab.victim.pod())
    for namespace in (lab.attacker, lab.victim):
        await restarted.resume(namespace.pod())
        assert await restarted.check(namespace.pod()) == ""
    await keeps_its_traffic(lab)
    await filtered(lab, "VLAN tag")


def is_port_of(name: str, namespace: PodNamespace) -> bool:
    with Netlink() as netlink:
        index = links.get_link(netlink, name).index

    def peer() -> int:
        with Netlink() as inside:
            return links.get_link(inside, "eth0").peer

    return namespace.inside(peer) == index


@pytest.mark.parametrize(
    "command",
    [
        "delete table bridge {}",
        "flush chain bridge {} from_pods",
        "flush set bridge {} senders",
        "flush ruleset",
    ],
)
async def test_a_filter_that_somebody_took_away_is_put_back_for_all_pods(lab: Lab, command: str) -> None:
    nft(command.format(lab.rig.table))
    assert await lab.rig.network.check(lab.victim.pod()) != ""
    assert (await lab.rig.network.readiness()).ready
    assert await lab.rig.network.check(lab.victim.pod()) == ""
    await keeps_its_traffic(lab)
    await filtered(lab, "foreign address")


async def test_a_bridge_that_was_down_still_knows_its_pods_once_it_was_looked_at(lab: Lab) -> None:
    ip(f"link set {lab.rig.settings.bridge} down")
    assert stated(lab.rig.settings.bridge) == set()
    await lab.rig.network.readiness()
    assert {lab.me.ip, lab.me.ip6, lab.other.ip, lab.other.ip6} <= stated(lab.rig.settings.bridge)
    await keeps_its_traffic(lab)


def stated(name: str) -> set[str]:
    with Netlink() as netlink:
        return set(map(str, permanent_neighbours(netlink, links.get_link(netlink, name))))


async def test_nothing_of_a_detached_pod_is_left_in_filter_and_neighbours(lab: Lab) -> None:
    for namespace in (lab.attacker, lab.victim):
        await lab.rig.network.detach(namespace.pod())
    nftables = Nftables()
    contents = nftables.contents(lab.rig.table, "bridge")
    nftables.close()
    assert contents is not None
    assert set(contents.sets.values()) == {frozenset()}
    assert stated(lab.rig.settings.bridge) == set()


async def test_elements_are_deleted_all_or_none(lab: Lab) -> None:
    table = lab.rig.table
    (key,) = senders.keys_of(senders.elements([sender_of_attacker(lab)]))["senders"]
    with Netlink(NETLINK_NETFILTER) as netlink:
        for missing in ({"senders": [key, bytes(len(key))]}, {"senders": [key], "nothing": [key]}):
            with pytest.raises(FileNotFoundError, match="delete from set"):
                delete_elements(netlink, "bridge", table, missing)
        assert await lab.rig.network.check(lab.attacker.pod()) == ""
        delete_elements(netlink, "bridge", table, {"senders": [key]})
        assert "it may not send" in await lab.rig.network.check(lab.attacker.pod())
        for _ in range(2):
            add_elements(netlink, "bridge", table, {"senders": [key]})
        assert await lab.rig.network.check(lab.attacker.pod()) == ""


def sender_of_attacker(lab: Lab) -> senders.Sender:
    return senders.Sender(host_link_name(lab.attacker.id), lab.me.mac, (ip_address(lab.me.ip),))


async def test_a_pod_is_detached_like_others_whose_elements_somebody_removed(lab: Lab) -> None:
    nft(f"flush set bridge {lab.rig.table} senders")
    await lab.rig.network.detach(lab.attacker.pod())
    await lab.rig.network.attach(lab.rig.namespaces.make().pod(), no_stage)
    assert await lab.rig.network.sweep(()) == []


async def test_without_filters_for_bridges_pods_start_and_the_node_is_told_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Nftables.run

    def refuse(self: Nftables, commands: str, **words: Any) -> Any:
        if "table bridge" in commands:
            raise NftablesError(errno.EOPNOTSUPP, "add table: Operation not supported", words["table"])
        return run(self, commands, **words)

    monkeypatch.setattr(Nftables, "run", refuse)
    async with own_rig(tmp_path, dual=True) as rig:
        lab = await lab_on(rig)
        readiness = await rig.network.readiness()
        assert readiness.ready
        assert (
            "pods can send in each other's name: the kernel lacks CONFIG_NF_TABLES_BRIDGE"
            in readiness.message
        )
        assert await rig.network.check(lab.victim.pod()) == ""
        # What is stated holds without any rule.
        await keeps_its_traffic(lab)
        await keeps_its_gateway(lab)
        await rig.network.detach(lab.victim.pod())
        await rig.network.dismantle()
