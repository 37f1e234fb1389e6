"""The built-in bridge with IPv4 and IPv6 at once."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest

from crib.host import ip_settings, links
from crib.host.addresses import list_addresses
from crib.host.netlink import Netlink
from crib.host.routes import list_routes
from crib.model.errors import Broken, InvalidRequest, Unavailable
from crib.model.sandbox import PodMetadata, PortMapping, Protocol
from tests.system.labs.bridge_rig import Rig, add_uplink, host_socket, ip, own_rig
from tests.system.labs.pod_namespaces import WAIT_SECONDS, PodNamespace, echo_server, no_stage, peer_seen

pytestmark = [pytest.mark.root, pytest.mark.system]

IPS = "io.crib.network.ips"
MAC = "io.crib.network.mac"
AGAIN_SECONDS = 1.0


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with own_rig(tmp_path, dual=True) as made:
        yield made


def pod_socket(namespace: PodNamespace, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    made = namespace.inside(lambda: socket.socket(socket.AF_INET6, kind))
    made.setblocking(False)
    return made


async def test_a_pod_has_both_addresses_and_ways_out_at_once(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    attachment = await rig.network.attach(namespace.pod(), no_stage)
    first, second = map(ip_address, attachment.addresses)
    assert first in rig.subnet
    assert rig.subnet6 is not None
    assert second in rig.subnet6

    def look() -> tuple[set[str], set[str]]:
        with Netlink() as netlink:
            eth0 = links.get_link(netlink, "eth0")
            routes = [route for route in list_routes(netlink) if route.is_default]
            return set(map(str, list_addresses(netlink, eth0))), {str(route.gateway) for route in routes}

    assert namespace.inside(look) == ({f"{first}/24", f"{second}/64"}, {rig.gateway, rig.gateway6})
    # Nobody was asked whether the address is free: binding would fail while that goes on.
    with pod_socket(namespace) as bound:
        bound.bind((str(second), 7001))
    async with echo_server(host_socket(v6=True), rig.gateway6, 7001):
        assert await peer_seen(pod_socket(namespace), rig.gateway6, 7001) == str(second)


async def test_two_pods_reach_each_other_by_ipv6_with_their_own_addresses(rig: Rig) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    first = await rig.network.attach(one.pod(), no_stage)
    second = await rig.network.attach(two.pod(), no_stage)
    async with echo_server(pod_socket(one), first.addresses[1], 80):
        assert await peer_seen(pod_socket(two), first.addresses[1], 80) == second.addresses[1]


async def test_a_pod_reaches_another_ipv6_network_in_the_hosts_name(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    outside = Rig(tmp_path / "outside", dual=True)
    inner, outer = rig.namespaces.make(), outside.namespaces.make()
    await rig.network.attach(inner.pod(), no_stage)
    elsewhere = await outside.network.attach(outer.pod(), no_stage)
    async with echo_server(pod_socket(outer), elsewhere.addresses[1], 80):
        assert await peer_seen(pod_socket(inner), elsewhere.addresses[1], 80) == outside.gateway6
    await outside.remove()


async def test_a_host_port_is_on_both_families_but_on_ipv6s_loopback_where_it_is_refused_at_once(
    rig: Rig,
) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(one.pod(PortMapping(80, 8080)), no_stage)
    await rig.network.attach(two.pod(), no_stage)
    listener = pod_socket(one)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    async with echo_server(listener, "::", 80):
        assert await peer_seen(host_socket(v6=True), rig.gateway6, 8080) == rig.gateway6
        assert await peer_seen(pod_socket(two), rig.gateway6, 8080) == rig.gateway6
        assert await peer_seen(pod_socket(one), rig.gateway6, 8080) == rig.gateway6
        assert await peer_seen(host_socket(), "127.0.0.1", 8080) == f"::ffff:{rig.gateway}"
        with pytest.raises(ConnectionRefusedError):
            await peer_seen(host_socket(v6=True), "::1", 8080)
        await rig.network.detach(one.pod())
        with pytest.raises(ConnectionRefusedError):
            await peer_seen(host_socket(v6=True), rig.gateway6, 8080)


async def test_a_host_port_on_one_ipv6_address_is_on_no_other_and_on_no_ipv4_one(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(PortMapping(80, 8080, host_ip=rig.gateway6)), no_stage)
    other = str(ip_address(rig.gateway6) + 0xFFFF)
    ip(f"-6 addr add {other}/128 dev lo nodad")
    async with echo_server(pod_socket(namespace), "::", 80):
        assert await peer_seen(host_socket(v6=True), rig.gateway6, 8080)
        for refused, v6 in ((other, True), (rig.gateway, False)):
            with pytest.raises(ConnectionRefusedError):
                await seen_when_routed(refused, v6=v6)


async def seen_when_routed(place: str, *, v6: bool) -> str:
    """The kernel may take a moment to route to an address that it was just given."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await peer_seen(host_socket(v6=v6), place, 8080)
            except OSError as error:
                if error.errno != errno.ENETUNREACH:
                    raise
            await asyncio.sleep(0.01)  # nothing tells when


async def test_a_udp_client_over_ipv6_reaches_the_pod_that_comes_later(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    mapping = PortMapping(53, 5353, Protocol.UDP)
    await rig.network.readiness()
    with host_socket(socket.SOCK_DGRAM, v6=True) as client:
        client.sendto(b"too early", (rig.gateway6, 5353))
        await rig.network.attach(namespace.pod(mapping), no_stage)
        with pod_socket(namespace, socket.SOCK_DGRAM) as server:
            server.bind(("::", 53))
            assert await heard(server, lambda: client.sendto(b"in time", (rig.gateway6, 5353))) == b"in time"


async def test_a_restarted_network_keeps_addresses_and_ports_of_both_families(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    pod = namespace.pod(PortMapping(80, 8080))
    first = await rig.network.attach(pod, no_stage)
    restarted = rig.restarted()
    assert await restarted.check(pod) == ""
    second = await restarted.attach(rig.namespaces.make().pod(), no_stage)
    assert set(first.addresses).isdisjoint(second.addresses)
    async with echo_server(pod_socket(namespace), "::", 80):
        assert await peer_seen(host_socket(v6=True), rig.gateway6, 8080)
    with pytest.raises(Unavailable, match=f"default/web \\({namespace.id}\\)"):
        await restarted.attach(rig.namespaces.make().pod(PortMapping(80, 8080)), no_stage)


async def test_a_pod_gets_the_addresses_and_the_mac_that_its_annotations_ask_for(rig: Rig) -> None:
    assert rig.subnet6 is not None
    namespace, other = rig.namespaces.make(), rig.namespaces.make()
    wanted = [str(rig.subnet[77]), f"{rig.subnet6[0x77]}/64"]
    annotations = ((IPS, ", ".join(wanted)), (MAC, "02:00:5e:10:00:01"))
    attachment = await rig.network.attach(namespace.pod(annotations=annotations), no_stage)
    assert attachment.addresses == (wanted[0], str(rig.subnet6[0x77]))
    view = await rig.network.view(namespace.pod())
    assert view.interfaces[0].mac == "02:00:5e:10:00:01"
    with pytest.raises(InvalidRequest, match=rf"annotations\[{IPS}\].*default/web \({namespace.id}\)"):
        await rig.network.attach(other.pod(annotations=((IPS, wanted[0]),)), no_stage)
    with pytest.raises(InvalidRequest, match=rf"annotations\[{MAC}\].*default/web \({namespace.id}\)"):
        await rig.network.attach(other.pod(annotations=annotations[1:]), no_stage)
    async with echo_server(pod_socket(namespace), "::", 80):
        assert await peer_seen(host_socket(v6=True), attachment.addresses[1], 80)


async def test_the_host_keeps_heeding_advertisements_when_it_begins_to_forward(rig: Rig) -> None:
    add_uplink("uplink0")
    assert option("uplink0", "accept_ra") == 1
    await rig.network.readiness()
    assert option("all", "forwarding") == 1
    assert option("uplink0", "accept_ra") == 2
    assert option(rig.settings.bridge, "accept_ra") == 0


async def test_without_an_ipv6_range_the_host_does_not_begin_to_forward_ipv6(tmp_path: Path) -> None:
    async with own_rig(tmp_path) as rig:
        assert (await rig.network.readiness()).ready
        assert option("all", "forwarding") == 0


async def test_neither_a_pod_nor_the_host_takes_routes_from_a_pods_advertisements(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    attachment = await rig.network.attach(namespace.pod(), no_stage)
    host_end = attachment.details["host_interface"]
    found = [option(host_end, "accept_ra"), namespace.inside(lambda: option("eth0", "accept_ra"))]
    assert found == [0, 0]


async def test_ranges_of_both_families_that_a_kubelet_tells_are_kept_over_a_restart(rig: Rig) -> None:
    network = rig.restarted()
    one, two, three = (rig.namespaces.make() for _ in range(3))
    first = await network.attach(one.pod(PortMapping(80, 8080)), no_stage)
    told: list[IPv4Network | IPv6Network] = [IPv4Network("10.250.7.0/24"), IPv6Network("fd43:1::/64")]
    await network.configure(",".join(map(str, told)))
    second = await network.attach(two.pod(), no_stage)
    third = await rig.restarted().attach(three.pod(), no_stage)
    for attachment in (second, third):
        for address, subnet in zip(attachment.addresses, told, strict=True):
            assert ip_address(address) in subnet
    async with echo_server(pod_socket(one), "::", 80):
        assert await peer_seen(pod_socket(three), first.addresses[1], 80) == third.addresses[1]
        assert await peer_seen(host_socket(v6=True), str(told[1][1]), 8080)


async def test_a_range_that_cannot_be_had_changes_nothing_and_is_not_kept(rig: Rig) -> None:
    network = rig.restarted()
    add_uplink("uplink0")
    ip("addr add 10.250.7.9/16 dev uplink0")
    with pytest.raises(Broken, match="overlaps"):
        await network.configure("10.250.7.0/24")
    attachment = await network.attach(rig.namespaces.make().pod(), no_stage)
    assert ip_address(attachment.addresses[0]) in rig.subnet
    assert not os.path.exists(f"{rig.state_dir}/pod-cidr")


async def test_names_of_pods_are_answered_on_the_bridges_addresses_and_nowhere_after_close(rig: Rig) -> None:
    network = rig.restarted(dns_domain="pods.test")
    namespace, asker = rig.namespaces.make(), rig.namespaces.make()
    pod = replace(namespace.pod(), metadata=PodMetadata(name="db", uid="1", namespace="shop"))
    attachment = await network.attach(pod, no_stage)
    await network.attach(asker.pod(), no_stage)
    resolver = network.resolver("shop")
    assert resolver is not None
    assert resolver.searches == ("shop.pods.test", "pods.test")
    assert resolver.servers == (rig.gateway, rig.gateway6)
    for kind, packed in zip((1, 28), (ip_address(one).packed for one in attachment.addresses), strict=True):
        assert packed in await answer(asker.socket(socket.SOCK_DGRAM), rig.gateway, "db.shop.pods.test", kind)
        assert packed in await answer(
            pod_socket(asker, socket.SOCK_DGRAM), rig.gateway6, "db.shop.pods.test", kind
        )
    await network.configure("10.250.7.0/24")
    assert ip_address(attachment.addresses[0]).packed in await answer(
        host_socket(socket.SOCK_DGRAM), "10.250.7.1", "db.shop.pods.test", 1
    )
    await network.close()
    with pytest.raises(ConnectionRefusedError):
        await answer(host_socket(socket.SOCK_DGRAM), "10.250.7.1", "db.shop.pods.test", 1)
    rig.networks.remove(network)


async def answer(client: socket.socket, server: str, name: str, kind: int) -> bytes:
    """What a name server says (RFC 1035, section 4)."""
    labels: Sequence[str] = name.split(".")
    question = b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"
    query = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0" + question + kind.to_bytes(2, "big") + b"\0\1"
    with client:
        client.connect((server, 53))
        return await heard(client, lambda: client.send(query))


async def heard(listener: socket.socket, say: Callable[[], object]) -> bytes:
    """What comes; said again and again, for a datagram may be lost while a neighbor is looked for.

    See `peer_seen`: the kernel keeps it for some seconds, and drops it when nobody has answered by then.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                say()
                return await asyncio.wait_for(loop.sock_recv(listener, 1000), AGAIN_SECONDS)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno != errno.EHOSTUNREACH:
                    raise


def option(name: str, key: str) -> int | None:
    return ip_settings.interface_option("ipv6", name, key)
