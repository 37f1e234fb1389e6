"""The reference plugins, chained as clusters chain them, on a host of the test's own and its iptables."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, until
from tests.system.labs.network_lab import CniLab, LabCribd, LabHost, check, cni_lab, cribd_on, pod_socket
from tests.system.labs.pod_namespaces import echo_server

pytestmark = [pytest.mark.root, pytest.mark.system]

GATEWAY = "10.88.0.1"
MAC = "c2:11:22:33:44:55"
ECHO_PORT = 7007
RATES = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "16M"}


def whole_chain(lab: CniLab) -> list[dict[str, Any]]:
    """Everything that a node's conflist usually has, and tuning besides."""
    return [
        lab.bridge(ipMasq=True, hairpinMode=True),
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "firewall"},
        {"type": "tuning", "mac": MAC, "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}},
    ]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    with cni_lab(tmp_path_factory.mktemp("chain")) as made:
        made.write(*whole_chain(made))
        yield made


@pytest.fixture(scope="module")
def cribd(lab: CniLab) -> Iterator[LabCribd]:
    with cribd_on(lab.host, lab.settings()) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: LabCribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@contextlib.asynccontextmanager
async def echo_on(host: LabHost, address: str) -> AsyncIterator[None]:
    """A server on that host that answers with the address that it sees."""
    listener = host.namespace.socket(socket.SOCK_STREAM)
    async with echo_server(listener, address, ECHO_PORT):
        yield


async def seen_at(cri: Cri, box: str, address: str) -> str:
    """What the echo server at that address sees of the container."""
    return await cri.sh(box, f"nc -w 20 {address} {ECHO_PORT} </dev/null", timeout=25)


async def test_a_pod_behind_the_whole_chain_has_all_that_its_plugins_promise(
    lab: CniLab, cribd: LabCribd, cri: Cri
) -> None:
    ports = [pb.PortMapping(container_port=8080, host_port=18080)]
    first = await cri.run_pod("first", port_mappings=ports, annotations=RATES)
    await cri.remove_pod(first)  # chains that all pods share are made by the first of them, and stay
    before = lab.traces(cribd)

    pod = await cri.run_pod("web", port_mappings=ports, annotations=RATES)
    box = await cri.run_container(pod, "httpd", "-f", "-p", "8080", "-h", "/etc")
    address = (await cri.pod_status(pod)).network.ip
    assert lab.held_addresses() == [address]
    async with echo_on(lab.host, GATEWAY):
        assert await seen_at(cri, box, GATEWAY) == address
    assert await until(lambda: lab.host.page(address, 8080)) == "web"
    for host_address in (GATEWAY, "127.0.0.1"):
        assert await until(lambda at=host_address: lab.host.page(at, 18080)) == "web"
    assert await cri.sh(box, "cat /sys/class/net/eth0/address") == MAC
    assert await cri.sh(box, "cat /proc/sys/net/ipv4/conf/eth0/arp_filter") == "1"
    limits = [line for line in lab.host.run("tc", "qdisc", "show").splitlines() if " tbf " in line]
    assert sorted(word for line in limits for word in line.split() if word.endswith("bit")) == [
        "16Mbit",
        "8Mbit",
    ]
    rules = lab.host.run("iptables-save")
    assert f"-A CNI-FORWARD -s {address}/32 -j ACCEPT" in rules
    assert f"--to-destination {address}:8080" in rules
    await cri.stop_pod(pod)
    assert await lab.host.page(GATEWAY, 18080) == ""
    assert address not in lab.host.run("iptables-save")
    await cri.remove_pod(pod)
    await lab.as_before(cribd, before)


async def test_two_pods_of_a_chain_reach_each_other_and_one_takes_nothing_of_the_other_with_it(
    lab: CniLab, cri: Cri
) -> None:
    lab.write(*whole_chain(lab)[:4])  # without tuning: one MAC is not for two
    ports = [pb.PortMapping(container_port=8080, host_port=18081)]
    web, other = await cri.run_pod("web", port_mappings=ports), await cri.run_pod("other")
    await cri.run_container(web, "httpd", "-f", "-p", "8080", "-h", "/etc")
    box = await cri.run_container(other, "sleep", "100")
    address = (await cri.pod_status(web)).network.ip
    assert await until(lambda: lab.host.page(address, 8080)) == "web"
    assert await cri.sh(box, f"wget -qO- http://{address}:8080/hostname", timeout=25) == "web"
    assert await cri.sh(box, f"wget -qO- http://{GATEWAY}:18081/hostname", timeout=25) == "web"
    await cri.remove_pod(other)
    assert await until(lambda: lab.host.page(GATEWAY, 18081)) == "web"
    assert lab.held_addresses() == [address]


async def test_rules_that_somebody_flushed_are_missed_by_the_plugins_and_made_again(
    lab: CniLab, cri: Cri
) -> None:
    lab.write(*whole_chain(lab)[:4])
    ports = [pb.PortMapping(container_port=8080, host_port=18083)]
    pod = await cri.run_pod(
        "web", port_mappings=ports, annotations=RATES
    )  # bandwidth's CHECK dies without any
    await cri.run_container(pod, "httpd", "-f", "-p", "8080", "-h", "/etc")
    assert await until(lambda: lab.host.page(GATEWAY, 18083)) == "web"
    assert (await check(cri, pod))[pod.id].problem == ""
    lab.host.run("iptables", "-t", "nat", "-F")
    assert await lab.host.page(GATEWAY, 18083) == ""
    assert "portmap CHECK" in (await check(cri, pod))[pod.id].problem
    mended = (await check(cri, pod, repair=True))[pod.id]
    assert (mended.repaired, mended.repair_error) == (True, "")
    assert lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]
    assert await until(lambda: lab.host.page(GATEWAY, 18083)) == "web"


async def test_a_host_port_of_udp_and_one_of_an_address_alone(lab: CniLab, cri: Cri) -> None:
    lab.write(*whole_chain(lab)[:2])
    ports = [
        pb.PortMapping(container_port=8080, host_port=18082, host_ip=GATEWAY),
        pb.PortMapping(container_port=5353, host_port=15353, protocol=pb.UDP),
    ]
    pod = await cri.run_pod("web", port_mappings=ports)
    await cri.run_container(pod, "httpd", "-f", "-p", "8080", "-h", "/etc")
    assert await until(lambda: lab.host.page(GATEWAY, 18082)) == "web"
    assert await lab.host.page("127.0.0.1", 18082) == ""

    loop = asyncio.get_running_loop()
    with (
        pod_socket(cri.cribd, pod, socket.SOCK_DGRAM) as server,
        lab.host.namespace.socket(socket.SOCK_DGRAM) as client,
    ):
        server.bind(("0.0.0.0", 5353))
        async with asyncio.timeout(30):
            await loop.sock_connect(client, (GATEWAY, 15353))
            await loop.sock_sendall(client, b"who?")
            question, source = await loop.sock_recvfrom(server, 100)
            assert question == b"who?"
            await loop.sock_sendto(server, b"the pod", source)
            assert await loop.sock_recv(client, 100) == b"the pod"


async def test_a_pod_on_ptp_reaches_its_host_and_gives_all_back(
    lab: CniLab, cribd: LabCribd, cri: Cri
) -> None:
    lab.write({"type": "ptp", "ipMasq": True, "ipam": lab.addresses_from("10.89.0.0/24")}, name="ptp-net")
    await cri.remove_pod(await cri.run_pod("first"))
    before = lab.traces(cribd)
    pod = await cri.run_pod("point")
    box = await cri.run_container(pod, "httpd", "-f", "-p", "8080", "-h", "/etc")
    address = (await cri.pod_status(pod)).network.ip
    assert address.startswith("10.89.0.")
    assert await until(lambda: lab.host.page(address, 8080)) == "point"
    async with echo_on(lab.host, "0.0.0.0"):
        assert await seen_at(cri, box, "10.89.0.1") == address
    await cri.remove_pod(pod)
    await lab.as_before(cribd, before)


async def test_a_pod_on_macvlan_reaches_a_peer_of_the_hosts_link_and_gives_all_back(
    lab: CniLab, cribd: LabCribd, cri: Cri, tmp_path: Path
) -> None:
    peer = LabHost(tmp_path, "peer")
    try:
        lab.host.join(peer, "uplink", ("10.90.0.1/24", "10.90.0.2/24"))
        plugin = {"type": "macvlan", "master": "uplink", "mode": "bridge"}
        ipam = lab.addresses_from("10.90.0.0/24")
        ipam["ranges"][0][0].update(rangeStart="10.90.0.100", rangeEnd="10.90.0.110", gateway="10.90.0.2")
        lab.write({**plugin, "ipam": ipam}, name="macvlan-net")
        before = lab.traces(cribd)
        pod = await cri.run_pod("vlan")
        box = await cri.run_container(pod, "httpd", "-f", "-p", "8080", "-h", "/etc")
        address = (await cri.pod_status(pod)).network.ip
        assert address == "10.90.0.100"
        assert await until(lambda: peer.page(address, 8080)) == "vlan"
        async with echo_on(peer, "10.90.0.2"):
            assert await seen_at(cri, box, "10.90.0.2") == address
        await cri.remove_pod(pod)
        await lab.as_before(cribd, before)
    finally:
        peer.remove()
        await until(lambda: "uplink" not in lab.host.interfaces())
