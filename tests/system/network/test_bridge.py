"""The built-in bridge with real namespaces, its own bridge, range and nftables table."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sqlite3
import statistics
import subprocess
import time
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from crib.backends.network.bridge.addresses import AddressBook
from crib.backends.network.bridge.link import host_link_name
from crib.backends.network.bridge.network import BridgeNetwork
from crib.host import links
from crib.host.addresses import list_addresses
from crib.host.kept_descriptors import FD_SETSIZE
from crib.host.netlink import Netlink
from crib.host.nftables import Nftables
from crib.model.errors import Broken, Unavailable
from crib.model.sandbox import PortMapping, Protocol
from crib.model.settings import NetworkSettings
from tests.patience import PATIENCE
from tests.system.labs.bridge_rig import Rig, host_socket, nft, own_rig
from tests.system.labs.pod_namespaces import echo_server, no_stage, peer_seen

pytestmark = [pytest.mark.root, pytest.mark.system]

ATTACH_BAR_SECONDS = 0.004
PORT = 8080
"""Each test has a host of its own, whose ports are all free; none that a client might get by itself."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with own_rig(tmp_path) as made:
        yield made


async def test_an_attached_pod_has_loopback_address_route_and_reaches_the_gateway(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    attachment = await rig.network.attach(namespace.pod(), no_stage)
    gateway = rig.gateway
    assert IPv4Address(attachment.addresses[0]) in rig.subnet
    assert attachment.interface == "eth0"

    def look() -> tuple[list[str], list[links.KernelLink]]:
        with Netlink() as netlink:
            eth0 = links.get_link(netlink, "eth0")
            return [str(a) for a in list_addresses(netlink, eth0)], links.list_links(netlink)

    addresses, found = namespace.inside(look)
    assert addresses == [f"{attachment.addresses[0]}/24"]
    assert {link.name: link.up for link in found if link.name in {"lo", "eth0"}} == {"lo": True, "eth0": True}
    routes = namespace.inside(lambda: Path("/proc/thread-self/net/route").read_text(encoding="ascii"))
    assert "eth0\t00000000" in routes
    async with echo_server(host_socket(), gateway, 7001):
        assert await peer_seen(namespace.socket(), gateway, 7001) == attachment.addresses[0]


async def test_two_pods_reach_each_other_with_their_own_addresses(rig: Rig) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    first = await rig.network.attach(one.pod(), no_stage)
    second = await rig.network.attach(two.pod(), no_stage)
    async with echo_server(one.socket(), first.addresses[0], 80):
        assert await peer_seen(two.socket(), first.addresses[0], 80) == second.addresses[0]


async def test_a_pod_reaches_another_network_in_the_hosts_name_and_its_port_is_reached_from_there(
    rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    outside = Rig(tmp_path / "outside")
    try:
        inner, outer = rig.namespaces.make(), outside.namespaces.make()
        await rig.network.attach(inner.pod(PortMapping(80, PORT)), no_stage)
        elsewhere = await outside.network.attach(outer.pod(), no_stage)
        async with echo_server(outer.socket(), elsewhere.addresses[0], 80):
            host = outside.gateway
            assert await peer_seen(inner.socket(), elsewhere.addresses[0], 80) == host
        async with echo_server(inner.socket(), "0.0.0.0", 80):
            assert await peer_seen(outer.socket(), host, PORT)
    finally:
        await outside.remove()


async def test_a_host_port_is_reached_from_loopback_gateway_other_pods_and_the_pod_itself(rig: Rig) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    first = await rig.network.attach(one.pod(PortMapping(80, PORT)), no_stage)
    await rig.network.attach(two.pod(), no_stage)
    gateway = rig.gateway
    async with echo_server(one.socket(), "0.0.0.0", 80):
        assert await peer_seen(host_socket(), "127.0.0.1", PORT) == gateway
        assert await peer_seen(host_socket(), gateway, PORT) == gateway
        assert await peer_seen(two.socket(), gateway, PORT) == gateway
        assert await peer_seen(one.socket(), gateway, PORT) == gateway
        await rig.network.detach(one.pod(PortMapping(80, PORT)))
        with pytest.raises(ConnectionRefusedError):
            await peer_seen(host_socket(), "127.0.0.1", PORT)
    assert first.addresses


async def test_a_host_port_on_one_address_is_not_open_on_another(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(PortMapping(80, PORT, host_ip="127.0.0.1")), no_stage)
    async with echo_server(namespace.socket(), "0.0.0.0", 80):
        assert await peer_seen(host_socket(), "127.0.0.1", PORT)
        with pytest.raises(ConnectionRefusedError):
            await peer_seen(host_socket(), rig.gateway, PORT)


async def test_a_host_port_of_udp_reaches_the_pod(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(PortMapping(53, PORT, Protocol.UDP)), no_stage)
    server = namespace.socket(socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 53))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        client.sendto(b"question", ("127.0.0.1", PORT))
        async with asyncio.timeout(20 * PATIENCE):
            loop = asyncio.get_running_loop()
            data, sender = await loop.sock_recvfrom(server, 100)
            await loop.sock_sendto(server, b"answer", sender)
            client.setblocking(False)
            assert (data, await loop.sock_recv(client, 100)) == (b"question", b"answer")


async def test_a_udp_client_that_goes_on_sending_reaches_the_pod_that_comes_later(rig: Rig) -> None:
    first, second = rig.namespaces.make(), rig.namespaces.make()
    mapping = PortMapping(53, PORT, Protocol.UDP)
    await rig.network.attach(rig.namespaces.make().pod(PortMapping(53, PORT + 1, Protocol.UDP)), no_stage)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for namespace in (first, second):
            client.sendto(b"too early", ("127.0.0.1", PORT))
            await rig.network.attach(namespace.pod(mapping), no_stage)
            with namespace.socket(socket.SOCK_DGRAM) as server:
                server.bind(("0.0.0.0", 53))
                client.sendto(b"in time", ("127.0.0.1", PORT))
                async with asyncio.timeout(20 * PATIENCE):
                    assert await asyncio.get_running_loop().sock_recv(server, 100) == b"in time"
            await rig.network.detach(namespace.pod(mapping))


async def test_a_taken_host_port_is_refused_naming_it_and_nothing_of_the_first_pod_changes(rig: Rig) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(one.pod(PortMapping(80, PORT)), no_stage)
    with pytest.raises(Unavailable, match=f"tcp \\*:{PORT}"):
        await rig.network.attach(two.pod(PortMapping(81, PORT)), no_stage)
    await rig.network.detach(two.pod(PortMapping(81, PORT)))
    async with echo_server(one.socket(), "0.0.0.0", 80):
        assert await peer_seen(host_socket(), "127.0.0.1", PORT)


async def test_a_pod_that_routes_loopback_to_the_gateway_does_not_reach_the_hosts(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(), no_stage)
    gateway = rig.gateway

    def route_loopback_to_the_host() -> None:
        for command in (
            "ip route del local 127.0.0.1 table local",
            "ip route del local 127.0.0.0/8 table local",
            "sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
            f"ip route add 127.0.0.1/32 via {gateway}",
        ):
            subprocess.run(command.split(), check=True)

    namespace.inside(route_loopback_to_the_host)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        namespace.socket(socket.SOCK_DGRAM) as pod,
    ):
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        assert not await hears(server, pod, seconds=0.3)
        # Without the guard it does: the test would notice if the rules were not what stops it.
        nft(f"flush chain inet {rig.table} guard")
        assert await hears(server, pod, seconds=5)


async def hears(server: socket.socket, client: socket.socket, seconds: float) -> bool:
    """Whether what the client sends to the server's address arrives."""
    try:
        async with asyncio.timeout(seconds):
            client.sendto(b"knock", server.getsockname())
            return await asyncio.get_running_loop().sock_recv(server, 10) == b"knock"
    except TimeoutError:
        return False


async def test_detach_is_safe_twice_and_before_any_attach_and_the_link_goes_with_the_namespace(
    rig: Rig,
) -> None:
    namespace = rig.namespaces.make()
    await rig.network.detach(namespace.pod())
    await rig.network.attach(namespace.pod(), no_stage)
    assert rig.port_names() == {host_link_name(namespace.id)}
    await rig.network.detach(namespace.pod())
    namespace.unpin()
    await rig.network.detach(namespace.pod())
    await rig.wait_without_ports()


async def test_attach_to_a_missing_namespace_fails_naming_the_pod_and_detach_cleans_up(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    namespace.unpin()
    with pytest.raises(Broken, match=namespace.id):
        await rig.network.attach(namespace.pod(PortMapping(80, PORT)), no_stage)
    await rig.network.detach(namespace.pod())
    other = rig.namespaces.make()
    await rig.network.attach(other.pod(PortMapping(80, PORT)), no_stage)


async def test_a_restarted_network_keeps_pods_ports_and_addresses(rig: Rig) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    first = await rig.network.attach(one.pod(PortMapping(80, PORT)), no_stage)
    restarted = rig.restarted()
    second = await restarted.attach(two.pod(), no_stage)
    assert second.addresses != first.addresses
    with pytest.raises(Unavailable):
        await restarted.attach(rig.namespaces.make().pod(PortMapping(80, PORT)), no_stage)
    async with echo_server(one.socket(), "0.0.0.0", 80):
        assert await peer_seen(host_socket(), "127.0.0.1", PORT)
    await restarted.detach(one.pod())
    with pytest.raises(ConnectionRefusedError):
        await peer_seen(host_socket(), "127.0.0.1", PORT)


async def test_sweep_releases_unknown_pods_and_removes_their_links_but_touches_no_other(rig: Rig) -> None:
    kept, lost = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(kept.pod(), no_stage)
    await rig.network.attach(lost.pod(PortMapping(80, PORT)), no_stage)
    released = await rig.restarted().sweep({kept.id})
    assert rig.port_names() == {host_link_name(kept.id)}
    assert any(lost.id in line for line in released)
    assert await rig.network.sweep({kept.id}) == []


async def test_sweep_leaves_the_link_of_a_pod_that_was_detached_a_moment_ago_to_the_kernel(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(), no_stage)
    await rig.network.detach(namespace.pod())
    assert await rig.network.sweep(()) == []
    assert rig.port_names() == {host_link_name(namespace.id)}


async def test_readiness_puts_back_a_bridge_and_rules_that_somebody_removed(rig: Rig) -> None:
    assert (await rig.network.readiness()).ready
    with Netlink() as netlink:
        links.delete_link(netlink, rig.settings.bridge)
    nftables = Nftables()
    nftables.delete_table(rig.table)
    assert (await rig.network.readiness()).ready
    assert nftables.exists(rig.table, "postrouting")
    nftables.close()
    await rig.network.attach(rig.namespaces.make().pod(), no_stage)


async def test_dismantle_removes_bridge_and_rules_and_the_next_attach_makes_them_anew(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(PortMapping(80, PORT)), no_stage)
    await rig.network.detach(namespace.pod(PortMapping(80, PORT)))
    await rig.network.dismantle()
    await rig.network.dismantle()
    with Netlink() as netlink:
        assert rig.settings.bridge not in {link.name for link in links.list_links(netlink)}
    nftables = Nftables()
    assert not nftables.exists(rig.table, "postrouting")
    nftables.close()
    await rig.network.attach(rig.namespaces.make().pod(PortMapping(80, PORT)), no_stage)


async def test_a_range_that_overlaps_another_interfaces_is_refused_before_anything_is_made(
    rig: Rig, tmp_path: Path
) -> None:
    assert (await rig.network.readiness()).ready
    settings = NetworkSettings(bridge=f"cbt{secrets.token_hex(4)}")
    wider = rig.subnet.supernet(new_prefix=20)
    with sqlite3.connect(":memory:") as connection:
        second = BridgeNetwork(settings, AddressBook(connection, wider), str(tmp_path))
        readiness = await second.readiness()
        await second.close()
    connection.close()
    assert not readiness.ready
    assert f"{wider} overlaps" in readiness.message
    with Netlink() as netlink:
        assert settings.bridge not in {link.name for link in links.list_links(netlink)}


async def test_a_changed_pod_range_serves_new_pods_and_keeps_the_old_ones_connected(rig: Rig) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    first = await rig.network.attach(one.pod(PortMapping(80, PORT)), no_stage)
    other = f"10.{220 + secrets.randbelow(30)}.7.0/24"
    await rig.network.configure(f"fd00::/64,{other}")
    second = await rig.network.attach(two.pod(), no_stage)
    assert IPv4Address(second.addresses[0]) in IPv4Network(other)
    async with echo_server(one.socket(), "0.0.0.0", 80):
        assert await peer_seen(two.socket(), first.addresses[0], 80) == second.addresses[0]
        assert await peer_seen(host_socket(), "127.0.0.1", PORT)


async def test_usage_counts_what_the_pod_sent_and_is_empty_without_a_namespace(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(), no_stage)
    gateway = rig.gateway
    async with echo_server(host_socket(), gateway, 7003):
        await peer_seen(namespace.socket(), gateway, 7003)
    usage = (await rig.network.usage([namespace.pod()]))[namespace.pod().id]
    (eth0,) = usage.interfaces
    assert eth0.name == "eth0"
    assert eth0.rx_bytes > 0
    assert eth0.tx_bytes > 0
    namespace.unpin()
    assert await rig.network.usage([namespace.pod()]) == {}


async def test_counters_that_stay_open_are_new_and_end_with_the_pod(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    pod, gateway = namespace.pod(), rig.gateway
    tables = rig.network._counters._tables
    await rig.network.attach(pod, no_stage)
    before = (await rig.network.usage([pod]))[pod.id].interfaces[0]
    assert set(tables) == {pod.id}
    assert all(table.file >= FD_SETSIZE for table in tables.values())
    async with echo_server(host_socket(), gateway, 7003):
        await peer_seen(namespace.socket(), gateway, 7003)
    after = (await rig.network.usage([pod]))[pod.id].interfaces[0]
    assert after.tx_bytes > before.tx_bytes
    file = tables[pod.id].file
    await rig.network.detach(pod)
    assert not tables
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(file)
    assert pod.id in await rig.network.usage([pod]), "its namespace is still there"
    assert not tables, "an open table would keep a namespace that is about to go"


async def test_many_pods_at_once_get_different_addresses(rig: Rig) -> None:
    namespaces = [rig.namespaces.make() for _ in range(20)]
    attachments = await asyncio.gather(*(rig.network.attach(n.pod(), no_stage) for n in namespaces))
    assert len({a.addresses[0] for a in attachments}) == 20
    assert len(rig.port_names()) == 20


@pytest.mark.nightly  # a time bound: a busy machine fails it without a fault of ours
async def test_attaching_a_pod_takes_at_most_four_milliseconds(rig: Rig) -> None:
    await rig.network.readiness()
    medians: list[float] = []
    for _ in range(3):  # other work on the machine may spoil a round, not three
        times = [await attach_seconds(rig) for _ in range(20)]
        medians.append(statistics.median(times))
        if medians[-1] <= ATTACH_BAR_SECONDS:
            return
    pytest.fail(f"medians of {medians} seconds")


async def attach_seconds(rig: Rig) -> float:
    namespace = rig.namespaces.make()
    started = time.perf_counter()
    await rig.network.attach(namespace.pod(), no_stage)
    return time.perf_counter() - started
