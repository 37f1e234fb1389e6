"""Host ports of a pod, reached from the host's loopback, from its bridge, and from another pod."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from crib.client.errors import ClientError
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, page, running_cribd, until
from tests.system.labs.network_lab import host_port

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def test_a_host_port_leads_to_the_pod_from_loopback_bridge_and_other_pods(cri: Cri) -> None:
    port = host_port()
    mapping = pb.PortMapping(container_port=8080, host_port=port)
    web = await cri.run_pod("web", port_mappings=[mapping])
    await cri.run_container(web, "httpd", "-f", "-p", "8080", "-h", "/etc")
    other = await cri.run_container(await cri.run_pod("other"), "sleep", "100")
    assert await until(lambda: page("127.0.0.1", port)) == "web"
    address = (await cri.pod_status(web)).network.ip
    gateway = f"{address.rpartition('.')[0]}.1"
    assert await until(lambda: page(gateway, port)) == "web"
    assert await until(lambda: page(address, 8080)) == "web"
    for place in (f"{gateway}:{port}", f"{address}:8080"):
        assert await cri.sh(other, f"wget -qO- http://{place}/hostname") == "web"
    await cri.remove_pod(web)
    assert await page("127.0.0.1", port) == ""


async def test_a_port_on_one_address_is_not_on_the_others(cri: Cri) -> None:
    port = host_port()
    mapping = pb.PortMapping(container_port=8080, host_port=port, host_ip="127.0.0.1")
    web = await cri.run_pod("web", port_mappings=[mapping])
    await cri.run_container(web, "httpd", "-f", "-p", "8080", "-h", "/etc")
    assert await until(lambda: page("127.0.0.1", port)) == "web"
    address = (await cri.pod_status(web)).network.ip
    assert await page(f"{address.rpartition('.')[0]}.1", port) == ""


async def test_a_port_that_another_pod_has_is_refused_and_free_again_after_it(cri: Cri) -> None:
    mapping = pb.PortMapping(container_port=80, host_port=host_port())
    first = await cri.run_pod("first", port_mappings=[mapping])
    with pytest.raises(ClientError, match=str(mapping.host_port)):
        await cri.run_pod("second", port_mappings=[mapping])
    assert set(await cri.sandboxes()) == {first.id}
    await cri.stop_pod(first)
    await cri.run_pod("second", port_mappings=[mapping])
