"""Pods with IPv4, IPv6 and names, by a daemon whose host is a network namespace of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import TypeVar

import pytest

from crib.client.errors import ClientError
from crib.host import links
from crib.host.netlink import Netlink
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image
from tests.system.labs.daemon import IMAGE, SETTLE_SECONDS, Cri, Cribd, DaemonProcess, until
from tests.system.labs.pod_namespaces import PodNamespace

pytestmark = [pytest.mark.root, pytest.mark.system]

T = TypeVar("T")

SUBNET = IPv4Network("10.60.0.0/24")
SUBNET6 = IPv6Network("fd60::/64")


class CribdElsewhere(Cribd):
    """A daemon in a namespace, so that this machine does not begin to forward IPv6 for a test."""

    def __init__(self, host: PodNamespace) -> None:
        super().__init__()
        self.host = host
        text = self.config.read_text().partition("[network]")[0]
        self.config.write_text(
            f'{text}[network]\nmode = "bridge"\nbridge = "{self.bridge}"\ndns_domain = "pods.test"\n'
            f'subnet = "{SUBNET}"\nsubnet6 = "{SUBNET6}"\n'
        )

    def _spawn(self, **environment: str) -> DaemonProcess:
        return self.host.inside(lambda: Cribd._spawn(self, **environment))

    def run(self, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.host.inside(lambda: super(CribdElsewhere, self).run(*arguments, config=config))

    def wipe(self) -> None:
        self.host.inside(lambda: super(CribdElsewhere, self).wipe())

    def interfaces(self) -> list[str]:
        def look() -> list[str]:
            with Netlink() as netlink:
                return [link.name for link in links.list_links(netlink)]

        return self.host.inside(look)

    def settle_interfaces(self) -> None:
        """Wait until all are gone but loopback."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := self.interfaces()) != ["lo"]:
            assert time.monotonic() < deadline, left
            time.sleep(0.02)  # the kernel tells nobody when it has removed the last link


@pytest.fixture(scope="module")
def cribd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CribdElsewhere]:
    host = PodNamespace(str(tmp_path_factory.mktemp("host") / "net"))

    def loopback_up() -> None:
        with Netlink() as netlink:
            links.set_loopback_up(netlink)

    host.inside(loopback_up)
    daemon = CribdElsewhere(host)
    try:
        try:
            daemon.start()
            daemon.import_images(busybox_image(name=IMAGE))
            daemon.warm_up()
            yield daemon
        finally:
            daemon.end()
        daemon.settle_interfaces()
    finally:
        host.unpin()


@pytest.fixture
async def cri(cribd: CribdElsewhere) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def web_and_other(cri: Cri, *mappings: pb.PortMapping) -> tuple[list[str], str]:
    """The addresses of a pod `web` that serves its host name on port 8080, and a container of another pod."""
    web = await cri.run_pod("web", port_mappings=mappings)
    await cri.run_container(web, "httpd", "-f", "-p", "8080", "-h", "/etc")
    network = (await cri.pod_status(web)).network
    other = await cri.run_container(await cri.run_pod("other"), "sleep", "100")
    return [network.ip, *(one.ip for one in network.additional_ips)], other


async def test_a_pod_is_reached_by_ipv4_ipv6_and_name(cri: Cri) -> None:
    (first, second), other = await web_and_other(cri)
    assert ip_address(first) in SUBNET
    assert ip_address(second) in SUBNET6
    for place in (first, f"[{second}]", "web", "web.stories", "web.stories.pods.test"):

        async def page(place: str = place) -> bool:
            return await cri.sh(other, f"wget -qO- http://{place}:8080/hostname || true") == "web"

        assert await until(page)


async def test_a_host_port_is_reached_by_both_families(cri: Cri) -> None:
    _, other = await web_and_other(cri, pb.PortMapping(container_port=8080, host_port=8888))
    for gateway in (SUBNET[1], f"[{SUBNET6[1]}]"):
        fetch = f"wget -qO- http://{gateway}:8888/hostname || true"

        async def page(fetch: str = fetch) -> bool:
            return await cri.sh(other, fetch) == "web"

        assert await until(page)


async def test_a_pod_of_an_address_that_its_annotation_names_has_it_and_no_second_one_does(cri: Cri) -> None:
    annotations = {"io.crib.network.ips": "10.60.0.77,fd60::77"}
    pod = await cri.run_pod("first", annotations=annotations)
    network = (await cri.pod_status(pod)).network
    assert [network.ip, *(one.ip for one in network.additional_ips)] == ["10.60.0.77", "fd60::77"]
    with pytest.raises(ClientError, match="held by pod stories/first"):
        await cri.run_pod("second", annotations=annotations)
    assert set(await cri.sandboxes()) == {pod.id}
