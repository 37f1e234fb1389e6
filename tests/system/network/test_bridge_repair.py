"""The built-in bridge's pods looked at and put right; what the bridge tells of itself; its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from crib.host import links
from crib.host.netlink import Netlink
from crib.model.network import ForwardView, RouteView
from crib.model.sandbox import NetworkAttachment, PortMapping
from crib.ports.networks import PodNetwork
from tests.system.labs.bridge_rig import Rig, add_uplink, host_socket, ip, nft, own_rig, run
from tests.system.labs.pod_namespaces import PodNamespace, echo_server, no_stage, peer_seen

pytestmark = [pytest.mark.root, pytest.mark.system]

INGRESS = "kubernetes.io/ingress-bandwidth"
EGRESS = "kubernetes.io/egress-bandwidth"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with own_rig(tmp_path, dual=True) as made:
        yield made


class Damaged:
    """A pod with a host port, to which something is done."""

    def __init__(self, rig: Rig, namespace: PodNamespace, attachment: NetworkAttachment) -> None:
        self.rig = rig
        self.namespace = namespace
        self.attachment = attachment
        self.host_end = attachment.details["host_interface"]

    @property
    def pod(self) -> PodNetwork:
        return self.namespace.pod(PortMapping(80, 8080))

    def inside(self, arguments: str) -> None:
        self.namespace.inside(lambda: ip(arguments))

    async def serves(self) -> None:
        """The pod is reached in each way, and reaches the host with its own addresses."""
        v6 = self.namespace.inside(lambda: socket.socket(socket.AF_INET6))
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        first, second = self.attachment.addresses
        async with echo_server(self.namespace.socket(), "0.0.0.0", 80), echo_server(v6, "::", 80):
            assert await peer_seen(host_socket(), "127.0.0.1", 8080)
            assert await peer_seen(host_socket(v6=True), self.rig.gateway6, 8080)
            assert await peer_seen(host_socket(v6=True), second, 80)
        async with echo_server(host_socket(), self.rig.gateway, 7000):
            assert await peer_seen(self.namespace.socket(), self.rig.gateway, 7000) == first


@pytest.fixture
async def damaged(rig: Rig) -> Damaged:
    namespace = rig.namespaces.make()
    return Damaged(rig, namespace, await rig.network.attach(namespace.pod(PortMapping(80, 8080)), no_stage))


def write(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value, encoding="ascii")


def rename(damaged: Damaged) -> None:
    damaged.inside("link set eth0 down")
    damaged.inside("link set eth0 name eth9")


def replace_eth0(damaged: Damaged) -> None:
    rename(damaged)
    damaged.inside("link add eth0 type veth peer name other")


DAMAGE: dict[str, tuple[Callable[[Damaged], None], str]] = {
    "host link deleted": (
        lambda d: ip(f"link del {d.host_end}"),
        "host interface crib.* is gone.*eth0 is gone",
    ),
    "host link down": (lambda d: ip(f"link set {d.host_end} down"), "host interface crib.* is down"),
    "no port": (lambda d: ip(f"link set {d.host_end} nomaster"), "is not a port of bridge"),
    "no hairpin": (lambda d: ip(f"link set {d.host_end} type bridge_slave hairpin off"), "does not hairpin"),
    "isolated": (lambda d: ip(f"link set {d.host_end} type bridge_slave isolated on"), "is isolated"),
    "bridge deleted": (lambda d: ip(f"link del {d.rig.settings.bridge}"), "bridge cbt.* is gone"),
    "learning": (lambda d: ip(f"link set {d.host_end} type bridge_slave learning on"), "is not filtered"),
    "no group": (lambda d: ip(f"link set {d.host_end} group 0"), "is not filtered"),
    "no static entry": (
        lambda d: run(f"bridge fdb del {d.attachment.details['mac']} dev {d.host_end} master"),
        "bridge cbt.* does not know that c2:1b:.* is behind crib",
    ),
    "no neighbour": (
        lambda d: ip(f"neigh del {d.attachment.addresses[0]} dev {d.rig.settings.bridge}"),
        "the host does not know the MAC of 10",
    ),
    "no neighbour 6": (
        lambda d: ip(f"neigh del {d.attachment.addresses[1]} dev {d.rig.settings.bridge}"),
        "the host does not know the MAC of fd42",
    ),
    "another gateway": (
        lambda d: d.inside(f"neigh replace {d.rig.gateway} dev eth0 lladdr 02:00:00:00:00:09"),
        "eth0 does not know the MAC of 10",
    ),
    "no gateway 6": (
        lambda d: d.inside(f"neigh del {d.rig.gateway6} dev eth0"),
        "eth0 does not know the MAC of fd42",
    ),
    "no sender": (lambda d: nft(f"flush set bridge {d.rig.table} senders"), "it may not send"),
    "no target": (lambda d: nft(f"flush set bridge {d.rig.table} targets6"), "it may not send"),
    "no filter": (lambda d: nft(f"delete table bridge {d.rig.table}"), "table .* is changed"),
    "eth0 down": (lambda d: d.inside("link set eth0 down"), "eth0 is down"),
    "eth0 renamed": (rename, "eth0 is gone"),
    "eth0 another": (replace_eth0, "eth0 is not the other end of host interface"),
    "mac": (lambda d: d.inside("link set eth0 address 02:00:00:00:00:09"), "eth0 has MAC 02:00:00:00:00:09"),
    "no ipv4": (lambda d: d.inside("-4 addr flush dev eth0"), "eth0 lacks address 10.*default route"),
    "no ipv6": (lambda d: d.inside("-6 addr flush dev eth0 scope global"), "lacks address fd42"),
    "no route": (lambda d: d.inside("route del default"), "no default route by 10"),
    "no ipv6 route": (lambda d: d.inside("-6 route del default"), "no default route by fd42"),
    "lo down": (lambda d: d.inside("link set lo down"), "lo is down"),
    "ports": (lambda d: nft(f"flush map inet {d.rig.table} ports_any"), r"host port tcp \*:8080"),
    "masquerade": (
        lambda d: nft(f"flush chain inet {d.rig.table} postrouting"),
        "table .* is changed",
    ),
    "masqueraded": (lambda d: nft(f"flush set inet {d.rig.table} pods"), "table .* is changed"),
    "bridge down": (lambda d: ip(f"link set {d.rig.settings.bridge} down"), "bridge cbt.* is down"),
    "gateways": (
        lambda d: ip(f"addr flush dev {d.rig.settings.bridge}"),
        "bridge cbt.* lacks address 10",
    ),
    "forwarding": (lambda d: write("ipv4/ip_forward", "0"), "the host does not forward IPv4"),
    "forwarding 6": (lambda d: write("ipv6/conf/all/forwarding", "0"), "the host does not forward IPv6"),
    "rules": (lambda d: nft("flush ruleset"), r"host port tcp \*:8080"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_found_named_and_put_right_with_the_same_addresses(
    damaged: Damaged, damage: str
) -> None:
    network = damaged.rig.network
    assert await network.check(damaged.pod) == ""
    act, named = DAMAGE[damage]
    act(damaged)
    assert_matches(await network.check(damaged.pod), named)
    assert await network.repair(damaged.pod, no_stage) == damaged.attachment
    assert await network.check(damaged.pod) == ""
    await damaged.serves()
    assert await network.repair(damaged.pod, no_stage) == damaged.attachment
    await damaged.serves()


def assert_matches(text: str, pattern: str) -> None:
    __tracebackhide__ = True
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(text)


async def test_a_pod_that_is_repaired_without_damage_keeps_its_interface(damaged: Damaged) -> None:
    def index() -> int:
        with Netlink() as netlink:
            return links.get_link(netlink, damaged.host_end).index

    before = index()
    await damaged.rig.network.repair(damaged.pod, no_stage)
    assert index() == before


async def test_a_pod_whose_namespace_is_gone_has_a_problem_no_counters_and_no_interfaces(
    damaged: Damaged,
) -> None:
    damaged.namespace.unpin()
    assert "its network cannot be inspected" in await damaged.rig.network.check(damaged.pod)
    assert await damaged.rig.network.usage([damaged.pod]) == {}
    view = await damaged.rig.network.view(damaged.pod)
    assert view.networks == (damaged.rig.settings.bridge,)
    assert view.interfaces == ()


async def test_a_pod_that_was_never_attached_has_no_network_to_look_at(rig: Rig) -> None:
    pod = rig.namespaces.make().pod()
    assert "holds no address" in await rig.network.check(pod)
    assert (await rig.network.view(pod)).networks == ()


async def test_a_pod_of_a_range_that_is_no_longer_the_bridges_gets_addresses_of_todays(
    damaged: Damaged,
) -> None:
    await damaged.rig.network.configure("10.250.7.0/24")
    ip(f"link del {damaged.host_end}")
    damaged.attachment = await damaged.rig.network.repair(damaged.pod, no_stage)
    assert damaged.attachment.addresses[0].startswith("10.250.7.")
    assert await damaged.rig.network.check(damaged.pod) == ""


async def test_the_view_of_a_pod_is_what_the_kernel_has(damaged: Damaged) -> None:
    rig = damaged.rig
    view = await rig.network.view(damaged.pod)
    (eth0,) = view.interfaces
    first, second = damaged.attachment.addresses
    assert (eth0.name, eth0.up, eth0.mtu) == ("eth0", True, 1500)
    assert eth0.mac == damaged.attachment.details["mac"]
    assert eth0.addresses == (f"{first}/24", f"{second}/64")
    assert (eth0.host_interface, eth0.host_bridge) == (damaged.host_end, rig.settings.bridge)
    assert view.routes == (
        RouteView("default", rig.gateway, "eth0"),
        RouteView(str(rig.subnet), "", "eth0"),
        RouteView(str(rig.subnet6), "", "eth0"),
        RouteView("default", rig.gateway6, "eth0"),
    )
    assert view.forwards == (ForwardView("tcp", "*", 8080, 80),)


async def test_counters_are_of_all_interfaces_but_loopback_and_begin_with_eth0(damaged: Damaged) -> None:
    damaged.inside("link add aaa0 type veth peer name zzz0")
    (usage,) = (await damaged.rig.network.usage([damaged.pod])).values()
    names = [one.name for one in usage.interfaces]
    assert names[0] == "eth0"
    assert sorted(names[1:]) == ["aaa0", "zzz0"]


async def test_the_network_tells_its_ranges_gateways_and_how_many_are_attached(damaged: Damaged) -> None:
    (info,) = await damaged.rig.network.networks()
    assert (info.name, info.kind, info.attached) == (damaged.rig.settings.bridge, "bridge", 1)
    assert info.subnets == (str(damaged.rig.subnet), str(damaged.rig.subnet6))
    assert info.gateways == (damaged.rig.gateway, damaged.rig.gateway6)
    assert (info.mtu, info.problem) == (1500, "")


@pytest.mark.parametrize(("family", "route"), [("-4", "10.251.0.1/30"), ("-6", "fd45::1/64")])
async def test_pods_have_the_mtu_of_the_interface_that_the_default_route_leaves_by(
    rig: Rig, family: str, route: str
) -> None:
    add_uplink("uplink0", mtu=1420)
    ip(f"{family} addr add {route} dev uplink0")
    ip(f"{family} route add default via {route.partition('/')[0][:-1]}2 dev uplink0")
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(), no_stage)
    view = await rig.network.view(namespace.pod())
    assert view.interfaces[0].mtu == 1420
    with Netlink() as netlink:
        assert links.get_link(netlink, rig.settings.bridge).mtu == 1420
        host_end = view.interfaces[0].host_interface
        assert links.get_link(netlink, host_end).mtu == 1420


async def test_limits_of_bandwidth_are_in_force_looked_at_and_put_back(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    pod = namespace.pod(annotations=((INGRESS, "8M"), (EGRESS, "16M")))
    attachment = await rig.network.attach(pod, no_stage)
    assert await rig.network.check(pod) == ""
    view = await rig.network.view(pod)
    assert (view.ingress_rate, view.egress_rate) == (8_000_000, 16_000_000)
    ip(f"link del {attachment.details['host_interface']}")
    assert "limits" in await rig.network.check(pod)
    await rig.network.repair(pod, no_stage)
    assert await rig.network.check(pod) == ""
    await rig.network.detach(pod)
    namespace.unpin()
    await rig.wait_without_ports()
    assert await rig.network.sweep(()) == []
    with Netlink() as netlink:
        assert {link.name for link in links.list_links(netlink)} == {"lo", rig.settings.bridge}


async def test_a_removed_bridge_is_ready_but_made_only_when_the_next_pod_needs_it(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    await rig.network.attach(namespace.pod(), no_stage)
    await rig.network.detach(namespace.pod())
    await rig.network.dismantle()
    for _ in range(2):
        readiness = await rig.network.readiness()
        assert readiness.ready
        assert "made with the next pod" in readiness.message
    assert await rig.network.sweep(()) == []
    with Netlink() as netlink:
        assert rig.settings.bridge not in {link.name for link in links.list_links(netlink)}
    await rig.network.attach(rig.namespaces.make().pod(), no_stage)
    assert (await rig.network.readiness()).message == ""


async def test_a_sweep_lets_be_what_this_process_attached_though_the_caller_did_not_know_of_it(
    rig: Rig,
) -> None:
    pods = [rig.namespaces.make().pod() for _ in range(5)]
    attaching = asyncio.gather(*(rig.network.attach(pod, no_stage) for pod in pods))
    assert await rig.network.sweep(()) == []
    await attaching
    assert await rig.network.sweep(()) == []
    assert [await rig.network.check(pod) for pod in pods] == [""] * 5
