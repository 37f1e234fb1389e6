"""Pods on CNI networks: the reference plugins, handlers' own networks, several of them, templates."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network

import pytest

from crib.client import pods
from crib.client.errors import ClientError, Unavailable
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, until
from tests.system.labs.network_lab import (
    CniLab,
    LabCribd,
    both_families,
    cni_lab,
    cribd_on,
    inspect,
    network_ready,
)

pytestmark = [pytest.mark.root, pytest.mark.system]

APART = "198.18.0.0/24"  # RFC 2544
RESERVED = "sandboxes "
"""How a pod's row begins, which is there before anything is made."""


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    """A host of its own, with addresses and bridges of any name."""
    with cni_lab(tmp_path_factory.mktemp("networks")) as made:
        yield made


@pytest.fixture
def cribd(lab: CniLab) -> Iterator[LabCribd]:
    """On bridge and host-local; the handler `apart` has a network of its own."""
    lab.write(lab.bridge())
    apart = {"cniVersion": "1.0.0", "name": "apart-net", "plugins": [lab.bridge(APART, bridge="br1")]}
    (lab.directory / "apart.d").mkdir()
    (lab.directory / "apart.d" / "10-apart.conflist").write_text(json.dumps(apart))
    handlers = f'[handlers.crun]\n[handlers.apart]\npath = "crun"\ncni_conf_dir = "{lab.directory}/apart.d"\n'
    with cribd_on(lab.host, lab.settings(ready_timeout=0.5) + handlers) as daemon:
        yield daemon


async def test_a_pod_on_the_reference_plugins_lives_and_gives_its_address_back(
    lab: CniLab, cribd: LabCribd
) -> None:
    async with cribd.story() as cri:
        before = lab.traces(cribd)
        assert (await network_ready(cri)).status
        web = await cri.run_pod("web")
        await cri.run_container(web, "httpd", "-f", "-p", "8080", "-h", "/etc")
        address = (await cri.pod_status(web)).network.ip
        assert lab.held_addresses() == [address]
        other = await cri.run_pod("other")
        box = await cri.run_container(other, "sleep", "100")
        assert await until(lambda: lab.host.page(address, 8080)) == "web"
        assert await cri.sh(box, f"wget -qO- http://{address}:8080/hostname") == "web"
        stats = await cri.call(cri.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=web.id))
        assert stats.stats.linux.network.default_interface.rx_bytes.value > 0
        await cri.stop_pod(web)
        assert lab.held_addresses() == [(await cri.pod_status(other)).network.ip]
        await cri.remove_pod(web)
        await cri.remove_pod(other)
        await lab.as_before(cribd, before)
    assert not list((cribd.data / "network").iterdir())


async def test_pods_of_a_handler_with_a_cni_directory_of_its_own_are_on_its_network(
    lab: CniLab, cribd: LabCribd
) -> None:
    async with cribd.story() as cri:
        apart = await pods.run_sandbox(cri.connection, cri.pod_config("apart"), "apart")
        plain = await cri.run_pod("plain")
        own, usual = [(await cri.pod_status(pod)).network.ip for pod in (apart, plain)]
        assert ip_address(own) in ip_network(APART)
        assert ip_address(usual) not in ip_network(APART)
        assert set(lab.held_addresses()) == {own, usual}
        box = await cri.run_container(apart, "sleep", "100")
        assert own in await cri.sh(box, "ip -4 addr show dev eth0")
        (lab.directory / "apart.d" / "10-apart.conflist").unlink()
        await cri.remove_pod(apart)
        assert lab.held_addresses() == [usual]
        found = await network_ready(cri)
        assert found.status
        assert "apart.d" in found.message
        with pytest.raises(ClientError, match=r"apart\.d"):
            await pods.run_sandbox(cri.connection, cri.pod_config("late"), "apart")


def write_networks(lab: CniLab) -> None:
    """Three networks, each with a bridge and a range of its own."""
    for number, name in ((1, "a"), (2, "b"), (3, "c")):
        bridge = lab.bridge(f"10.8{number}.0.0/24", bridge=f"br-{name}")
        bridge["ipam"]["routes"] = [{"dst": "0.0.0.0/0"}] if name == "a" else []
        lab.write(bridge, file=f"{number}0-{name}.conflist", name=f"net-{name}")


async def test_a_pod_is_on_as_many_networks_as_the_settings_say_in_the_order_of_the_files(
    lab: CniLab,
) -> None:
    write_networks(lab)
    with cribd_on(lab.host, lab.settings(cni_networks=2)) as cribd:
        async with cribd.story() as cri:
            before = lab.traces(cribd)
            pod = await cri.run_pod("twice")
            box = await cri.run_container(pod, "httpd", "-f", "-p", "8080", "-h", "/etc")
            view = await inspect(cri, pod)
            assert list(view.networks) == ["net-a", "net-b"]
            found = {item.name: item.addresses[0].partition("/")[0] for item in view.interfaces}
            assert found["eth0"].startswith("10.81.0.")
            assert found["eth1"].startswith("10.82.0.")
            assert "eth2" not in found
            assert (await cri.pod_status(pod)).network.ip == found["eth0"]
            assert sorted(lab.held_addresses()) == sorted([found["eth0"], found["eth1"]])
            for name in ("eth0", "eth1"):
                assert f"{found[name]}/24" in await cri.sh(box, f"ip -4 address show dev {name}")
                assert await until(lambda at=found[name]: lab.host.page(at, 8080)) == "twice"
            attached = {item.name: item.attached for item in await networks_of(cri)}
            assert (attached["net-a"], attached["net-b"]) == (1, 1)
            cribd.kill()
            cribd.start()
            async with cribd.connect() as again:
                assert list((await inspect(again, pod)).networks) == ["net-a", "net-b"]
                await again.remove_pod(pod)
            await lab.as_before(cribd, before)


async def networks_of(cri: Cri) -> Sequence[node_pb2.Network]:
    return (await cri.call(cri.node.ListNetworks, node_pb2.ListNetworksRequest())).networks


async def test_the_second_networks_failure_takes_the_first_one_back(lab: CniLab) -> None:
    write_networks(lab)
    with cribd_on(lab.host, lab.settings(cni_networks=2)) as cribd:
        async with cribd.story() as cri:
            before = lab.traces(cribd)
            second = lab.bridge("10.82.0.0/24", bridge="br-b", type="first", delegate="bridge")
            lab.write(second, file="20-b.conflist", name="net-b")
            lab.fail("first", "ADD", "1*partial(7, no luck today, really)")
            with pytest.raises(ClientError, match=r"first ADD.*no luck today"):
                await cri.run_pod("unlucky")
            await lab.as_before(cribd, before)
            await cri.run_pod("lucky")
            assert len(lab.held_addresses()) == 2
        assert lab.held_addresses() == []


async def test_the_network_that_is_named_the_default_is_eth0_and_waited_for(lab: CniLab) -> None:
    write_networks(lab)
    settings = lab.settings(cni_networks=2, cni_default_network="net-c", ready_timeout=0.2)
    with cribd_on(lab.host, settings) as cribd:
        async with cribd.story() as cri:
            pod = await cri.run_pod("named")
            assert (await cri.pod_status(pod)).network.ip.startswith("10.83.0.")
            assert list((await inspect(cri, pod)).networks) == ["net-c", "net-a"]
            (lab.confs / "30-c.conflist").unlink()
            found = await network_ready(cri)
            assert not found.status
            assert "net-c" in found.message
            with pytest.raises(ClientError, match="net-c"):
                await cri.run_pod("early")
            await cri.remove_pod(pod)
            assert lab.held_addresses() == []


FAMILIES = ("10.88.0.0/24", "fd00:88::/64")


@pytest.mark.parametrize(
    ("preference", "subnets", "first"),
    [
        ("ipv6", FAMILIES, 6),
        pytest.param("ipv4", FAMILIES[::-1], 4, marks=pytest.mark.nightly),
        pytest.param("cni", FAMILIES[::-1], 6, marks=pytest.mark.nightly),
    ],
)
async def test_the_address_of_the_preferred_family_is_the_pods_own(
    lab: CniLab, preference: str, subnets: tuple[str, str], first: int
) -> None:
    lab.write(lab.bridge(*subnets))
    with cribd_on(lab.host, lab.settings(ip_preference=preference)) as cribd:
        async with cribd.story() as cri:
            pod = await cri.run_pod("both")
            network = (await cri.pod_status(pod)).network
            addresses = [ip_address(network.ip), *(ip_address(item.ip) for item in network.additional_ips)]
            assert [address.version for address in addresses] == [first, 10 - first]
            await cri.run_container(pod, "httpd", "-f", "-p", "[::]:8080", "-h", "/etc")
            for address in addresses:
                assert await until(lambda at=str(address): lab.host.page(at, 8080)) == "both"
            assert len(lab.held_addresses()) == 2
        assert lab.held_addresses() == []


async def test_a_configuration_directory_may_come_and_go(lab: CniLab) -> None:
    text = lab.write(lab.bridge()).read_text()
    shutil.rmtree(lab.confs)
    with cribd_on(lab.host, lab.settings(ready_timeout=20), warm=False) as cribd:
        async with cribd.story() as cri:
            found = await network_ready(cri)
            assert (found.status, found.reason) == (False, "NetworkPluginNotReady")
            assert str(lab.confs) in found.message
            options = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
            host = await cri.run_pod("host", namespaces=options, hostname="")  # the host's needs none
            await cri.remove_pod(host)
            begun = asyncio.ensure_future(cri.run_pod("early"))
            await until(lambda: [row for row in cribd.leftovers().rows if row.startswith(RESERVED)])
            lab.confs.mkdir()
            (lab.confs / "10-test.conflist").write_text(text)
            await until(lambda: _is_ready(cri))
            pod = await begun
            assert lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]
            shutil.rmtree(lab.confs)
            assert not await _is_ready(cri)
            await cri.remove_pod(pod)
            assert lab.held_addresses() == []
            lab.confs.mkdir()


async def _is_ready(cri: Cri) -> bool:
    return (await network_ready(cri)).status


async def test_a_pod_waits_no_longer_for_a_network_than_the_settings_say(lab: CniLab) -> None:
    with cribd_on(lab.host, lab.settings(ready_timeout=0.2), warm=False) as cribd:
        async with cribd.story() as cri:
            with pytest.raises(Unavailable, match=r"net\.d"):
                await cri.run_pod("early")
            lab.write({"type": "not-there", "ipam": {}})
            with pytest.raises(ClientError, match="not-there"):
                await cri.run_pod("early")
            assert await cri.sandboxes() == {}


TEMPLATE = """{"cniVersion": "1.0.0", "name": "templated", "plugins": [{
  "type": "bridge", "bridge": "br0", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": "DIRECTORY",
    "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
    "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}}]}
"""


async def test_a_template_and_the_nodes_ranges_make_the_configuration_also_for_after_a_restart(
    lab: CniLab,
) -> None:
    template = lab.directory / "template"
    template.write_text(TEMPLATE.replace("DIRECTORY", str(lab.ipam)))
    settings = lab.settings(cni_conf_template=str(template), ip_preference="ipv4")
    ranges = pb.NetworkConfig(pod_cidr="10.91.0.0/24,fd00:91::/64")
    request = pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=ranges))
    with cribd_on(lab.host, settings, warm=False) as cribd:
        async with cribd.connect() as cri:
            assert not await _is_ready(cri)
            await cri.call(cri.runtime.UpdateRuntimeConfig, request)
            assert await _is_ready(cri)
            pods = [await cri.run_pod("one")]
            assert both_families(await cri.pod_status(pods[0])) == ("10.91.0.2", "fd00:91::2")
        (written,) = lab.confs.iterdir()
        text = written.read_text()
        cribd.kill()
        cribd.start()
        async with cribd.connect() as cri:
            assert written.read_text() == text
            pods.append(await cri.run_pod("two"))
            assert both_families(await cri.pod_status(pods[1])) == ("10.91.0.3", "fd00:91::3")
            await cri.call(cri.runtime.UpdateRuntimeConfig, request)
            assert [path.name for path in lab.confs.iterdir()] == [written.name]
            for pod in pods:
                await cri.remove_pod(pod)
            assert lab.held_addresses() == []
