"""The built-in bridge where something was lost: rules, the bridge, its range; and what may not leak."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from crib.backends.network.bridge import bandwidth
from crib.backends.network.bridge.host_ports import Forwards, parse_maps
from crib.backends.network.bridge.link import host_link_name
from crib.backends.network.networks import Host, open_network
from crib.host import links
from crib.host.netlink import Netlink
from crib.host.nftables import Nftables
from crib.host.routes import is_local
from crib.model.errors import Broken, Unavailable
from crib.model.paths import Paths
from crib.model.sandbox import PortMapping, Protocol
from crib.model.settings import NetworkSettings
from tests.fakes.world import bounded
from tests.system.labs.bridge_rig import Rig, add_uplink, host_socket, ip, nft, own_host, own_rig
from tests.system.labs.daemon import until
from tests.system.labs.pod_namespaces import PodNamespace, PodNamespaces, echo_server, no_stage, peer_seen

pytestmark = [pytest.mark.root, pytest.mark.system]

WEB = PortMapping(80, 8080)
LIMITED = (("kubernetes.io/egress-bandwidth", "10M"),)
SCTP_PORT = PortMapping(80, 8080, Protocol.SCTP)
SCTP = 132
TIMES = 20
"""Without its mend a race was lost in one of three tries."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with own_rig(tmp_path) as made:
        yield made


def interfaces() -> set[str]:
    with Netlink() as netlink:
        return {link.name for link in links.list_links(netlink)}


def in_kernel(rig: Rig) -> Forwards:
    """Which ports lead where."""
    nftables = Nftables()
    try:
        found = nftables.contents(rig.table)
    finally:
        nftables.close()
    assert found is not None
    return parse_maps(found.maps)


async def serves(rig: Rig, namespace: PodNamespace) -> None:
    """The pod's host port leads to it."""
    async with echo_server(namespace.socket(), "0.0.0.0", 80):
        assert await peer_seen(host_socket(), rig.gateway, 8080)


async def daemon_killed(rig: Rig) -> None:
    """What the process had open is closed; the kernel keeps bridge, rules and pods."""
    await rig.network.close()
    rig.networks.clear()


async def test_ports_that_were_lost_while_no_daemon_ran_are_led_to_their_pod_again_and_to_nobody_else(
    rig: Rig,
) -> None:
    owner, thief = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(owner.pod(WEB), no_stage)
    await daemon_killed(rig)
    nft("flush ruleset")
    network = rig.restarted()
    await network.resume(owner.pod(WEB))
    await serves(rig, owner)
    with pytest.raises(Unavailable, match=rf"tcp .*:8080 already leads to pod default/web \({owner.id}\)"):
        await network.attach(thief.pod(WEB), no_stage)
    await network.resume(owner.pod(WEB))  # nothing is lost now
    assert await network.check(owner.pod(WEB)) == ""


def nothing_made(rig: Rig, namespace: PodNamespace) -> None:
    ip(f"link delete {host_link_name(namespace.id)}")


def nothing_done_to_it(rig: Rig, namespace: PodNamespace) -> None:
    namespace.inside(lambda: ip("link set eth0 down"))
    namespace.inside(lambda: ip("address flush dev eth0"))


def no_limits(rig: Rig, namespace: PodNamespace) -> None:
    bandwidth.release(host_link_name(namespace.id))


@pytest.mark.parametrize("half", [nothing_made, nothing_done_to_it, no_limits])
async def test_a_repair_that_a_kill_cut_off_is_done_by_the_next_daemon_with_the_same_addresses(
    rig: Rig, half: Callable[[Rig, PodNamespace], None]
) -> None:
    namespace = rig.namespaces.make()
    limited = replace(namespace.pod(WEB), annotations=LIMITED)
    had = await rig.network.attach(limited, no_stage)
    await daemon_killed(rig)
    half(rig, namespace)
    network = rig.restarted()
    assert await network.check(limited) != ""
    assert await network.resume(limited) == had
    assert await network.check(limited) == ""
    await serves(rig, namespace)
    assert await network.resume(limited) is None


async def test_what_a_pod_does_to_its_own_interface_is_left_at_a_restart(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(), no_stage)
    await daemon_killed(rig)
    namespace.inside(lambda: ip("link set eth0 down"))
    assert await rig.restarted().resume(namespace.pod()) is None
    namespace.inside(lambda: ip("link set eth0 name wan0"))
    namespace.inside(lambda: ip("link set wan0 up"))
    assert await rig.restarted().resume(namespace.pod()) is None


async def test_nothing_is_made_for_a_pod_that_had_no_port_or_holds_nothing(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.resume(namespace.pod(WEB))
    assert interfaces() == {"lo"}


async def test_a_pod_starts_though_somebody_took_the_rules_away_and_no_kubelet_asks(rig: Rig) -> None:
    first, second = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(first.pod(WEB), no_stage)
    nft("flush ruleset")
    other = second.pod(PortMapping(80, 8081))
    await rig.network.attach(other, no_stage)
    assert await rig.network.check(other) == ""
    await serves(rig, first)


async def test_a_pod_starts_though_somebody_took_the_bridge_away_and_no_kubelet_asks(rig: Rig) -> None:
    await rig.network.attach(rig.namespaces.make().pod(), no_stage)
    ip(f"link delete {rig.settings.bridge}")
    namespace = rig.namespaces.make()
    (address,) = (await rig.network.attach(namespace.pod(WEB), no_stage)).addresses
    assert await rig.network.check(namespace.pod(WEB)) == ""
    async with echo_server(host_socket(), rig.gateway, 7000):
        assert await peer_seen(namespace.socket(), rig.gateway, 7000) == address


async def test_a_start_that_the_kernel_refuses_for_good_fails_and_leaves_nothing(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    pod = replace(namespace.pod(WEB), netns=f"{namespace.path}-gone")
    with pytest.raises(Broken, match=f"attach pod {pod.id} to bridge"):
        await rig.network.attach(pod, no_stage)
    await rig.network.detach(pod)
    assert interfaces() == {"lo", rig.settings.bridge}
    await rig.network.attach(rig.namespaces.make().pod(WEB), no_stage)  # the port is free


async def overlapped(rig: Rig) -> None:
    """As after a reboot: bridge and rules are gone, and another interface has come with their range."""
    await daemon_killed(rig)
    ip(f"link delete {rig.settings.bridge}")
    nft(f"delete table inet {rig.table}")
    ip("link add vpn0 type veth peer name vpn1")
    ip(f"address add {rig.subnet.network_address + 7}/16 dev vpn0")
    ip("link set vpn0 up")


async def test_a_pod_can_be_stopped_where_its_bridge_cannot_be_made(rig: Rig) -> None:
    stopped, lost = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(stopped.pod(WEB), no_stage)
    (address,) = (await rig.network.attach(lost.pod(), no_stage)).addresses
    await overlapped(rig)
    network = rig.restarted()
    await network.detach(stopped.pod(WEB))
    assert await network.sweep(()) == [f"address {address} of pod {lost.id}"]
    with pytest.raises(Broken, match="overlaps"):
        await network.attach(rig.namespaces.make().pod(), no_stage)
    await network.dismantle()


async def test_ports_that_are_in_the_kernel_are_given_back_though_the_bridge_cannot_be_made(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(WEB), no_stage)
    await daemon_killed(rig)
    ip(f"link delete {rig.settings.bridge}")
    ip("link add vpn0 type veth peer name vpn1")
    ip(f"address add {rig.subnet.network_address + 7}/16 dev vpn0")
    assert in_kernel(rig)
    await rig.restarted().detach(namespace.pod(WEB))
    assert in_kernel(rig) == {}


async def test_a_sweep_leaves_no_interface_of_a_pod_with_limits(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(annotations=LIMITED), no_stage)
    assert len(interfaces()) == 4
    await rig.restarted().sweep(())
    assert interfaces() == {"lo", rig.settings.bridge}


async def test_a_detach_that_failed_at_the_limits_is_done_whole_at_the_next_try(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = rig.namespaces.make()
    pod = namespace.pod(annotations=LIMITED)
    await rig.network.attach(pod, no_stage)

    def busy(name: str) -> None:
        raise OSError(16, "busy", name)

    with monkeypatch.context() as patch:
        patch.setattr(bandwidth, "release", busy)
        with pytest.raises(Broken, match="busy"):
            await rig.network.detach(pod)
    await rig.network.detach(pod)
    namespace.unpin()
    await rig.wait_without_ports()
    assert interfaces() == {"lo", rig.settings.bridge}


async def test_an_ipv6_address_of_the_bridge_is_delivered_to_as_soon_as_it_is_put_back(
    tmp_path: Path,
) -> None:
    async with own_rig(tmp_path, dual=True) as rig:
        await rig.network.attach(rig.namespaces.make().pod(), no_stage)
        gateway, delivered = ip_address(rig.gateway6), []
        for _ in range(TIMES):
            ip(f"address flush dev {rig.settings.bridge}")
            await rig.network.readiness()
            with Netlink() as netlink:
                delivered.append(is_local(netlink, gateway))
        assert all(delivered)


async def test_what_is_delivered_here_is_told_from_what_is_sent_on_and_what_has_no_way() -> None:
    async with own_host():
        add_uplink("up0")
        ip("address add 10.1.0.1/24 dev up0")
        ip("address add fd00::1/64 dev up0 nodad")
        with Netlink() as netlink:
            await until(lambda: is_local(netlink, ip_address("fd00::1")))
            assert is_local(netlink, ip_address("10.1.0.1"))
            assert not is_local(netlink, ip_address("10.1.0.2"))
            assert not is_local(netlink, ip_address("fd00::2"))
            for nowhere in ("10.2.0.1", "fd01::1"):
                with pytest.raises(OSError, match="look up route"):
                    is_local(netlink, ip_address(nowhere))


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_init(source: int, destination: int) -> bytes:
    """The packet that opens an association (RFC 9260, section 3.3.2)."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x1234, 65535, 1, 1, 0x1234)
    ports = struct.pack("!HHI", source, destination, 0)
    checksum = crc32c(ports + bytes(4) + chunk)
    return ports + struct.pack("<I", checksum) + chunk


def sctp_socket() -> socket.socket:
    """A raw one: it needs no SCTP in the kernel."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, SCTP)
    made.setblocking(False)
    return made


async def sctp_arrives(rig: Rig, namespace: PodNamespace, source: int) -> tuple[int, int]:
    """Ports of the first packet that comes to the pod when a client sends one to the host's port 8080."""
    with namespace.inside(sctp_socket) as listener, sctp_socket() as client:
        client.sendto(sctp_init(source, 8080), (rig.gateway, 0))
        async with bounded():
            packet = await asyncio.get_running_loop().sock_recv(listener, 2000)
    header = (packet[0] & 15) * 4
    return struct.unpack("!HH", packet[header : header + 4])


async def test_a_client_of_sctp_that_goes_on_from_its_port_is_led_to_the_pod_of_today(rig: Rig) -> None:
    first, second = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(first.pod(SCTP_PORT), no_stage)
    assert await sctp_arrives(rig, first, 5000) == (5000, 80)
    await rig.network.detach(first.pod(SCTP_PORT))
    first.unpin()
    await rig.wait_without_ports()
    await rig.network.attach(second.pod(SCTP_PORT), no_stage)
    assert await sctp_arrives(rig, second, 5000) == (5000, 80)


@pytest.mark.parametrize(("preference", "versions"), [("ipv6", [6, 4]), ("ipv4", [4, 6]), ("cni", [4, 6])])
async def test_the_preferred_familys_address_comes_first(
    tmp_path: Path, preference: str, versions: list[int]
) -> None:
    settings = NetworkSettings(
        mode="bridge", bridge="br0", subnet="10.99.0.0/24", subnet6="fd00:99::/64", ip_preference=preference
    )
    connection = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    namespaces = PodNamespaces(str(tmp_path))
    async with own_host():
        network = open_network(settings, Host(Paths(str(tmp_path), str(tmp_path)), connection))
        attachment = await network.attach(namespaces.make().pod(), no_stage)
        await network.close()
    namespaces.unpin_all()
    connection.close()
    assert [ip_address(text).version for text in attachment.addresses] == versions
