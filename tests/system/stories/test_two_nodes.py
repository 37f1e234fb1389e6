"""Two hosts, each with a cribd and a range of pods, and routes to each other's pods."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, until
from tests.system.labs.network_lab import LabCribd, LabHost, cribd_on, pod_socket
from tests.system.labs.pod_namespaces import echo_server, peer_seen

pytestmark = [pytest.mark.root, pytest.mark.system]

ECHO_PORT = 7007
PORT = 18080


@dataclass(frozen=True)
class Node:
    """A host with a daemon; addresses of its uplink, ranges of its pods, by family."""

    cribd: LabCribd
    host: LabHost
    uplink: dict[int, str]
    pods: dict[int, str]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    directory = tmp_path_factory.mktemp("nodes")
    hosts = [LabHost(directory, name) for name in ("one", "two")]
    uplinks = [{4: f"192.0.2.{number}", 6: f"2001:db8::{number}"} for number in (1, 2)]
    ranges = [{4: f"10.{number}.0.0/24", 6: f"fd00:{number}::/64"} for number in (1, 2)]
    try:
        hosts[0].join(
            hosts[1],
            "uplink",
            *(
                (f"{uplinks[0][family]}/{bits}", f"{uplinks[1][family]}/{bits}")
                for family, bits in ((4, 24), (6, 64))
            ),
        )
        with contextlib.ExitStack() as stack:
            made = []
            for own, other in ((0, 1), (1, 0)):
                for family in (4, 6):
                    hosts[own].ip(f"-{family} route add {ranges[other][family]} via {uplinks[other][family]}")
                network = (
                    f'mode = "bridge"\nbridge = "br{own}"\nsubnet = "{ranges[own][4]}"\n'
                    f'subnet6 = "{ranges[own][6]}"\n'
                    f'native_ranges = ["10.0.0.0/14", "fd00::/14"]\n'
                )
                cribd = stack.enter_context(cribd_on(hosts[own], network))
                made.append(Node(cribd, hosts[own], uplinks[own], ranges[own]))
            yield made[0], made[1]
    finally:
        for host in hosts:
            host.remove()


@pytest.fixture
async def stories(nodes: tuple[Node, Node]) -> AsyncIterator[tuple[Cri, Cri]]:
    async with nodes[0].cribd.story() as one, nodes[1].cribd.story() as two:
        yield one, two


def address(status: pb.PodSandboxStatus, family: int) -> str:
    """The pod's address of that family."""
    found = [status.network.ip, *(item.ip for item in status.network.additional_ips)]
    return next(text for text in found if (":" in text) == (family == 6))


async def seen(client: LabCribd, pod: Pod, at: str) -> str:
    """The address of the pod as the echo server at `at` sees it."""
    family = socket.AF_INET6 if ":" in at else socket.AF_INET
    return await peer_seen(pod_socket(client, pod, socket.SOCK_STREAM, family), at, ECHO_PORT)


@pytest.mark.parametrize("family", [4, 6])
async def test_pods_of_two_nodes_see_each_other_by_their_own_addresses(
    nodes: tuple[Node, Node], stories: tuple[Cri, Cri], family: int
) -> None:
    pods = [await cri.run_pod(f"pod{number}") for number, cri in enumerate(stories)]
    statuses = [await cri.pod_status(pod) for cri, pod in zip(stories, pods, strict=True)]
    found = [address(status, family) for status in statuses]
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    for here, there in ((0, 1), (1, 0)):
        listener = pod_socket(nodes[there].cribd, pods[there], socket.SOCK_STREAM, kind)
        async with echo_server(listener, found[there], ECHO_PORT):
            assert await seen(nodes[here].cribd, pods[here], found[there]) == found[here]
            # and a host sees a pod of the other one without help of its own
            direct = nodes[here].host.inside(lambda: socket.socket(kind, socket.SOCK_STREAM))
            assert await peer_seen(direct, found[there], ECHO_PORT) == nodes[here].uplink[family]


@pytest.mark.parametrize("family", [4, 6])
async def test_a_pod_is_masqueraded_where_nobody_knows_its_way_back(
    nodes: tuple[Node, Node], stories: tuple[Cri, Cri], family: int
) -> None:
    pod = await stories[0].run_pod("away")
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    peer = nodes[1]
    listener = peer.host.inside(lambda: socket.socket(kind, socket.SOCK_STREAM))
    listener.setblocking(False)
    async with echo_server(listener, peer.uplink[family], ECHO_PORT):
        assert await seen(nodes[0].cribd, pod, peer.uplink[family]) == nodes[0].uplink[family]


@pytest.mark.parametrize("family", [4, 6])
async def test_a_host_port_of_one_node_serves_pods_of_the_other(
    nodes: tuple[Node, Node], stories: tuple[Cri, Cri], family: int
) -> None:
    ports = [pb.PortMapping(container_port=8080, host_port=PORT)]
    web = await stories[0].run_pod("web", port_mappings=ports)
    await stories[0].run_container(web, "httpd", "-f", "-p", "[::]:8080", "-h", "/etc")
    box = await stories[1].run_container(await stories[1].run_pod("client"), "sleep", "100")
    place = nodes[0].uplink[family]
    assert await until(lambda: nodes[1].host.page(place, PORT)) == "web"
    bracketed = f"[{place}]" if family == 6 else place
    assert await stories[1].sh(box, f"wget -qO- http://{bracketed}:{PORT}/hostname", timeout=25) == "web"
