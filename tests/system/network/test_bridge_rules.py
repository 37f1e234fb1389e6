"""The built-in bridge's rules: what they catch and leave alone, who reaches whom, who had a port first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.backends.network.bridge.addresses import AddressBook
from crib.host import ip_settings
from crib.host.nftables import Nftables, TableContents
from crib.model.errors import Unavailable
from crib.model.sandbox import PortMapping, Protocol
from crib.model.settings import NetworkSettings
from tests.patience import PATIENCE
from tests.system.labs.bridge_rig import Rig, add_uplink, host_socket, ip, nft, own_rig
from tests.system.labs.pod_namespaces import PodNamespace, echo_server, no_stage, peer_seen

pytestmark = [pytest.mark.root, pytest.mark.system]

REFUSED_SECONDS = 0.5
"""A packet that is dropped is never answered: how long to wait for that is a matter of taste."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with own_rig(tmp_path) as made:
        yield made


async def reaches(client: socket.socket, address: str, port: int = 80) -> bool:
    try:
        return bool(await peer_seen(client, address, port, REFUSED_SECONDS))
    except (TimeoutError, OSError):
        return False


async def test_a_pods_host_port_does_not_catch_what_goes_to_that_port_elsewhere(
    rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    outside = Rig(tmp_path / "outside")
    thief, client, server = rig.namespaces.make(), rig.namespaces.make(), outside.namespaces.make()
    await rig.network.attach(thief.pod(PortMapping(80, 8080)), no_stage)
    own = (await rig.network.attach(client.pod(), no_stage)).addresses[0]
    there = (await outside.network.attach(server.pod(), no_stage)).addresses[0]
    async with echo_server(thief.socket(), "0.0.0.0", 80), echo_server(server.socket(), there, 8080):
        # The server sees the host: it was not the thief, who would have seen the gateway of its own bridge.
        assert await peer_seen(client.socket(), there, 8080) == outside.gateway
        assert await peer_seen(host_socket(), there, 8080) == outside.gateway
        assert await peer_seen(client.socket(), rig.gateway, 8080) == rig.gateway
    assert own
    await outside.remove()


@pytest.mark.parametrize(
    ("first", "second", "is_taken"),
    [
        ("", "", True),
        ("", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
    ],
)
async def test_a_port_on_all_addresses_and_the_same_on_one_are_not_two_pods(
    rig: Rig, first: str, second: str, is_taken: bool
) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(one.pod(PortMapping(80, 8080, host_ip=first)), no_stage)
    await rig.network.attach(rig.namespaces.make().pod(PortMapping(80, 8080, Protocol.UDP)), no_stage)
    mapping = PortMapping(80, 8080, host_ip=second)
    if not is_taken:
        await rig.network.attach(two.pod(mapping), no_stage)
        return
    with pytest.raises(Unavailable, match=rf"tcp .*:8080 already leads to pod default/web \({one.id}\)"):
        await rig.network.attach(two.pod(mapping), no_stage)


async def test_one_pod_may_have_a_port_on_all_addresses_and_lead_one_address_elsewhere(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    pod = namespace.pod(PortMapping(80, 8080), PortMapping(81, 8080, host_ip="127.0.0.1"))
    await rig.network.attach(pod, no_stage)
    async with echo_server(namespace.socket(), "0.0.0.0", 80):
        assert await peer_seen(host_socket(), rig.gateway, 8080)
        assert not await reaches(host_socket(), "127.0.0.1", 8080)
    async with echo_server(namespace.socket(), "0.0.0.0", 81):
        assert await peer_seen(host_socket(), "127.0.0.1", 8080)


async def test_a_host_port_of_sctp_reaches_the_pod(rig: Rig) -> None:
    namespace = rig.namespaces.make()
    try:
        listener = namespace.inside(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        )
    except OSError:
        pytest.skip("this kernel has no SCTP")
    await rig.network.attach(namespace.pod(PortMapping(80, 8080, Protocol.SCTP)), no_stage)
    with listener, socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as client:
        listener.bind(("0.0.0.0", 80))
        listener.listen()
        client.setblocking(False)
        async with asyncio.timeout(20 * PATIENCE):
            await asyncio.get_running_loop().sock_connect(client, (rig.gateway, 8080))


async def pods(rig: Rig) -> tuple[PodNamespace, str, PodNamespace]:
    """A pod with host port 8080, its address, and another pod."""
    one, two = rig.namespaces.make(), rig.namespaces.make()
    first = await rig.network.attach(one.pod(PortMapping(80, 8080)), no_stage)
    await rig.network.attach(two.pod(), no_stage)
    return one, first.addresses[0], two


@pytest.fixture(params=["the rules", "the bridge"])
def isolating(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What keeps pods apart: the bridge, where the rules do not see what it passes (no br_netfilter)."""
    kind: str = request.param
    if kind == "the bridge":
        monkeypatch.setattr(ip_settings, "can_filter_bridged", lambda: False)
    elif not ip_settings.can_filter_bridged():
        pytest.skip("this kernel has no br_netfilter")
    return kind


def without_br_netfilter(isolating: str) -> None:
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        path = Path("/proc/sys/net/bridge") / name
        if isolating == "the bridge" and path.exists():
            path.write_text("0", encoding="ascii")


async def test_isolated_pods_reach_each_other_through_published_ports_only(
    tmp_path: Path, isolating: str
) -> None:
    async with own_rig(tmp_path, settings=NetworkSettings(isolation="pods")) as rig:
        without_br_netfilter(isolating)
        one, address, two = await pods(rig)
        async with echo_server(one.socket(), "0.0.0.0", 80), echo_server(host_socket(), rig.gateway, 7000):
            assert not await reaches(two.socket(), address)
            assert await peer_seen(two.socket(), rig.gateway, 8080) == rig.gateway
            assert await peer_seen(one.socket(), rig.gateway, 8080) == rig.gateway
            assert await peer_seen(two.socket(), rig.gateway, 7000)
            assert await peer_seen(host_socket(), address, 80) == rig.gateway
            # Nor is there a way round by the host.
            two.inside(lambda: ip(f"route add {address}/32 via {rig.gateway}"))
            assert not await reaches(two.socket(), address)
            # Without what keeps them apart the test would notice.
            await rig.restarted(isolation="none").readiness()
            assert await peer_seen(two.socket(), address, 80)


async def test_pods_that_run_are_isolated_when_a_restart_asks_for_it(rig: Rig) -> None:
    one, address, two = await pods(rig)
    async with echo_server(one.socket(), "0.0.0.0", 80):
        assert await peer_seen(two.socket(), address, 80)
        network = rig.restarted(isolation="pods")
        await network.readiness()
        assert not await reaches(two.socket(), address)
    assert await network.check(one.pod(PortMapping(80, 8080))) == ""


@pytest.mark.parametrize(
    "command",
    ["flush table inet {}", "flush chain inet {} host_ports", "flush map inet {} ports_any", "flush ruleset"],
)
async def test_rules_and_ports_that_somebody_flushed_are_put_back(rig: Rig, command: str) -> None:
    one, _, _ = await pods(rig)
    nft(command.format(rig.table))
    async with echo_server(one.socket(), "0.0.0.0", 80):
        assert not await reaches(host_socket(), "127.0.0.1", 8080)
        assert (await rig.network.readiness()).ready
        assert await peer_seen(host_socket(), "127.0.0.1", 8080)


async def test_rules_are_listed_again_only_where_somebody_has_changed_a_table(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    contents = Nftables.contents

    def noted(nftables: Nftables, table: str, family: str = "inet") -> TableContents | None:
        listed.append(family)
        return contents(nftables, table, family)

    monkeypatch.setattr(Nftables, "contents", noted)
    other = f"{rig.table}_other"[-31:]
    pod = rig.namespaces.make()
    await rig.network.attach(pod.pod(), no_stage)
    await rig.network.readiness()
    assert listed
    listed.clear()
    await rig.network.readiness()
    assert not listed
    nft(f"add table inet {other}")
    try:
        await rig.network.readiness()
        assert listed
    finally:
        nft(f"delete table inet {other}")


async def test_a_pod_whose_ports_somebody_removed_from_the_rules_is_detached_like_others(rig: Rig) -> None:
    one, _, _ = await pods(rig)
    nft(f"flush map inet {rig.table} ports_any")
    await rig.network.detach(one.pod(PortMapping(80, 8080)))
    await rig.network.attach(rig.namespaces.make().pod(PortMapping(80, 8080)), no_stage)


def ports(rig: Rig) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    nftables = Nftables()
    contents = nftables.contents(rig.table)
    nftables.close()
    assert contents is not None
    return contents.maps["ports_any"]


async def test_a_port_that_nobody_asked_for_goes_with_the_next_status(rig: Rig) -> None:
    _, address, _ = await pods(rig)
    nft(f"add element inet {rig.table} ports_any {{ 6 . 9999 : {rig.subnet[200]} . 80 }}")
    await rig.network.readiness()
    assert ports(rig) == [(("6", "8080"), (address, "80"))]


async def test_a_port_that_leads_to_an_address_of_nobody_goes_with_a_restart(rig: Rig) -> None:
    one, two = rig.namespaces.make(), rig.namespaces.make()
    await rig.network.attach(one.pod(PortMapping(80, 8080)), no_stage)
    kept = await rig.network.attach(two.pod(PortMapping(80, 8081)), no_stage)
    AddressBook(rig.connection, rig.subnet).release(one.id)
    await rig.restarted().sweep({two.id})
    assert ports(rig) == [(("6", "8081"), (kept.addresses[0], "80"))]


async def test_a_firewall_that_drops_what_is_forwarded_is_told_of_and_left_as_it_is(rig: Rig) -> None:
    nft(
        "add table ip filter",
        "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
    )
    readiness = await rig.network.readiness()
    assert readiness.ready
    assert f"pods on bridge {rig.settings.bridge} cannot reach beyond the host" in readiness.message
    assert "ip filter FORWARD" in readiness.message
    (info,) = await rig.network.networks()
    assert info.problem == readiness.message
    nft(f'add rule ip filter FORWARD iifname "{rig.settings.bridge}" accept')
    assert (await rig.restarted().readiness()).message == ""


async def test_a_firewall_of_another_family_or_that_accepts_is_no_matter(rig: Rig) -> None:
    nft(
        "add table ip6 filter",
        "add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }",
        "add table ip filter",
        "add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }",
        "add chain ip filter INPUT { type filter hook input priority 0; policy drop; }",
    )
    assert (await rig.network.readiness()).message == ""


async def test_networks_that_know_the_way_back_see_the_pods_own_address(tmp_path: Path) -> None:
    settings = NetworkSettings(native_ranges=("10.250.0.0/16", "fd44::/64"))
    async with own_rig(tmp_path, settings=settings) as rig:
        add_uplink("uplink0")
        namespace, other = rig.namespaces.make(), rig.namespaces.make()
        attachment = await rig.network.attach(namespace.pod(), no_stage)
        ip(f"link set uplink0p netns {other.path}")
        ip("addr add 10.250.0.1/24 dev uplink0")
        other.inside(lambda: ip("addr add 10.250.0.2/24 dev uplink0p"))
        other.inside(lambda: ip("addr add 10.251.0.2/24 dev uplink0p"))
        other.inside(lambda: ip("link set uplink0p up"))
        other.inside(lambda: ip(f"route add {rig.subnet} via 10.250.0.1"))
        ip("route add 10.251.0.0/24 dev uplink0")
        async with echo_server(other.socket(), "0.0.0.0", 80):
            assert await peer_seen(namespace.socket(), "10.250.0.2", 80) == attachment.addresses[0]
            assert await peer_seen(namespace.socket(), "10.251.0.2", 80) == "10.250.0.1"
