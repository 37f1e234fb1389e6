"""Pods on several CNI networks, and what each of their plugins is told of the pod."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from crib.backends.network.cni.network import CniNetwork
from crib.model.errors import Broken, InvalidRequest
from crib.model.network import ForwardView
from crib.model.sandbox import PortMapping
from tests.fakes.world import bounded
from tests.system.labs.cni_lab import CniLab
from tests.system.labs.daemon import until
from tests.system.labs.pod_namespaces import no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]

TEMPLATE = """{"cniVersion": "1.0.0", "name": "made", "plugins": [{"type": "one", "ranges": [
{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}"{{$range}}"{{end}}]}]}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CniLab]:
    made = CniLab(tmp_path)
    yield made
    made.remove()


def three_networks(lab: CniLab, *capabilities: str) -> None:
    for name in ("a", "b", "c"):
        lab.configure(lab.recorder(f"of-{name}", *capabilities), version="1.1.0", name=name)


@pytest.mark.parametrize(
    ("networks", "default", "attached"),
    [
        (1, "", {"eth0": "a"}),
        (1, "c", {"eth0": "c"}),
        (2, "b", {"eth0": "b", "eth1": "a"}),
        (0, "", {"eth0": "a", "eth1": "b", "eth2": "c"}),
        (7, "c", {"eth0": "c", "eth1": "a", "eth2": "b"}),
    ],
)
async def test_a_pod_gets_as_many_networks_as_are_set_the_default_first(
    lab: CniLab, networks: int, default: str, attached: dict[str, str]
) -> None:
    three_networks(lab)
    network = lab.network(cni_networks=networks, cni_default_network=default)
    pod = lab.namespaces.make().pod()
    attachment = await network.attach(pod, no_stage)
    assert attachment.interface == "eth0"
    assert attachment.details == {"network": ",".join(attached.values())}
    assert {call["interface"]: call["input"]["name"] for call in lab.calls("ADD")} == attached
    assert (await network.view(pod)).networks == tuple(attached.values())
    await network.detach(pod)
    told = [(call["interface"], call["input"]["name"]) for call in lab.calls("DEL")]
    assert told == list(reversed(attached.items()))


async def test_the_pods_addresses_are_those_of_eth0_in_the_order_that_is_preferred(lab: CniLab) -> None:
    three_networks(lab)
    both = [{"address": "10.9.8.7/24"}, {"address": "fd00::7/64"}, {"address": "10.9.8.8/24"}]
    lab.answer("of-a", {"cniVersion": "1.1.0", "ips": both})
    found = [
        (
            await lab.network(cni_networks=2, ip_preference=wanted).attach(
                lab.namespaces.make().pod(), no_stage
            )
        )
        for wanted in ("cni", "ipv4", "ipv6")
    ]
    assert [one.addresses for one in found] == [
        ("10.9.8.7", "fd00::7", "10.9.8.8"),
        ("10.9.8.7", "10.9.8.8", "fd00::7"),
        ("fd00::7", "10.9.8.7", "10.9.8.8"),
    ]


async def test_what_a_failed_second_network_leaves_of_the_first_is_taken_back(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin(), name="a")
    lab.configure(lab.recorder("two"), name="b")
    lab.fail("two", "ADD")
    pod = lab.namespaces.make().pod()
    with pytest.raises(Broken, match="two ADD"):
        await lab.network(cni_networks=2).attach(pod, no_stage)
    assert len(lab.held_addresses()) == 1
    await lab.network().detach(pod)  # a daemon that has just started, with other settings
    assert lab.held_addresses() == []
    assert [call["plugin"] for call in lab.calls("DEL")] == ["two"]


async def test_a_file_kept_when_a_pod_had_one_network_is_understood(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    namespace = lab.namespaces.make()
    await lab.network().attach(namespace.pod(), no_stage)
    file = lab.kept_file(namespace)
    (attachment,) = json.loads(file.read_text())["attachments"]
    file.write_text(json.dumps(attachment))
    await lab.network().detach(namespace.pod())
    (call,) = lab.calls("DEL")
    assert call["input"]["prevResult"]["seen"] == "one"
    assert not file.exists()


async def test_plugins_of_one_pod_run_in_turn_and_those_of_two_side_by_side(lab: CniLab) -> None:
    lab.configure(lab.script("gate", GATE), lab.recorder("two"))
    network = lab.network()
    async with bounded():
        pods = [
            asyncio.ensure_future(network.attach(lab.namespaces.make().pod(), no_stage)) for _ in range(2)
        ]
        await until(lambda: len(list(lab.directory.glob("at-gate.*"))) == 2)
        assert lab.calls("ADD") == []
        (lab.directory / "open").touch()
        await asyncio.gather(*pods)
    assert len(lab.calls("ADD")) == 2


GATE = """#!/bin/sh
here=$(dirname "$0")/..
cat >/dev/null
touch "$here/at-gate.$CNI_CONTAINERID"
while [ ! -f "$here/open" ]; do sleep 0.02; done
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]}'
"""


async def granted(
    lab: CniLab,
    network: CniNetwork,
    *ports: PortMapping,
    annotations: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """What each network's plugin was told as runtimeConfig, for such a pod."""
    pod = lab.namespaces.make().pod(*ports, annotations=tuple(annotations.items()))
    await network.attach(pod, no_stage)
    calls = lab.calls("ADD")
    return [call["input"].get("runtimeConfig", {}) for call in calls if call["id"] == pod.id]


async def test_what_can_be_had_of_one_network_only_is_asked_of_eth0s(lab: CniLab) -> None:
    three_networks(lab, "portMappings", "bandwidth", "ips", "mac", "aliases", "ipRanges")
    network = lab.network(cni_networks=2)
    await network.configure("10.1.0.0/24,fd00::/64")
    first, second = await granted(
        lab,
        network,
        PortMapping(80, 8080),
        PortMapping(81),
        annotations={
            "kubernetes.io/ingress-bandwidth": "10M",
            "io.crib.network.ips": "10.1.0.77/24, fd00::77",
            "io.crib.network.mac": "02:00:5E:10:00:01",
            "io.crib.network.aliases": "db,db.shop",
        },
    )
    assert first == {
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 2147483647},
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "ips": ["10.1.0.77/24", "fd00::77"],
        "mac": "02:00:5e:10:00:01",
        "aliases": ["db", "db.shop"],
    }
    assert second == {"bandwidth": first["bandwidth"]}


async def test_what_no_plugin_can_do_is_refused_naming_the_annotation(lab: CniLab) -> None:
    lab.configure(lab.recorder("one", "mac"))
    pod = lab.namespaces.make().pod(annotations=(("io.crib.network.ips", "10.1.0.7"),))
    with pytest.raises(InvalidRequest, match="no plugin of network test-net has the capability ips") as told:
        await lab.network().attach(pod, no_stage)
    assert told.value.field == "annotations[io.crib.network.ips]"
    assert lab.calls("ADD") == []


async def test_the_reference_plugins_give_the_address_and_mac_that_a_pod_asks_for(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin("ips", "mac"))
    address, mac = str(lab.subnet[77]), "02:00:5e:10:00:01"
    annotations = (("io.crib.network.ips", address), ("io.crib.network.mac", mac))
    pod = lab.namespaces.make().pod(annotations=annotations)
    network = lab.network()
    assert (await network.attach(pod, no_stage)).addresses == (address,)
    (interface,) = (await network.view(pod)).interfaces
    assert interface.mac == mac
    await network.detach(pod)


async def test_a_view_tells_networks_interfaces_ports_and_rates(lab: CniLab) -> None:
    lab.configure(lab.bridge_plugin(), lab.recorder("ports", "portMappings", "bandwidth"))
    lab.answer("ports", {"cniVersion": "1.0.0", "ips": [{"address": f"{lab.subnet[2]}/24"}]})
    network = lab.network()
    namespace = lab.namespaces.make()
    annotations = (("kubernetes.io/egress-bandwidth", "5M"),)
    pod = namespace.pod(PortMapping(80, 8080), annotations=annotations)
    await network.attach(pod, no_stage)
    view = await network.view(pod)
    assert [(one.name, one.up, one.host_bridge) for one in view.interfaces] == [("eth0", True, lab.bridge)]
    assert str(lab.subnet[1]) in {route.gateway for route in view.routes}
    assert view.forwards == (ForwardView("tcp", "*", 8080, 80),)
    assert (view.ingress_rate, view.egress_rate) == (0, 5_000_000)
    namespace.unpin()
    assert (await network.view(pod)).networks == ("test-net",)
    assert (await network.view(pod)).interfaces == ()
    await network.detach(pod)


async def test_the_nodes_ranges_are_remembered_and_a_template_is_filled_in(lab: CniLab) -> None:
    template = lab.directory / "template"
    template.write_text(TEMPLATE)
    lab.recorder("one")
    settings = {"cni_conf_template": str(template)}
    assert not (await lab.network(**settings).readiness()).ready
    await lab.network(**settings).configure("10.1.0.0/24,fd00::/64")
    (made,) = lab.conf_dir.iterdir()
    assert json.loads(made.read_text())["plugins"][0]["ranges"] == ["10.1.0.0/24", "fd00::/64"]
    assert (await lab.network(**settings).readiness()).ready
    lab.configure(lab.recorder("one", "ipRanges"), name="a")
    made.unlink()
    (told,) = await granted(lab, lab.network())
    assert told == {"ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}
    with pytest.raises(InvalidRequest):
        await lab.network().configure("10.1.0.0/99")


async def test_networks_are_told_with_what_they_are_made_of(lab: CniLab) -> None:
    file = lab.configure(lab.bridge_plugin("ips"), lab.recorder("two"), name="a")
    lab.configure({"type": "not-there", "mtu": 1400}, version="0.4.0", name="b")
    own = lab.own_directory(lab.recorder("own"))
    network = lab.network(own)
    await network.attach(lab.namespaces.make().pod(), no_stage)
    first, handlers, other = await network.networks()
    assert (first.name, first.kind, first.source, first.interface) == ("a", "cni", str(file), "eth0")
    assert (first.attached, first.version, first.problem) == (1, "1.0.0", "")
    assert (first.subnets, first.mtu, first.handlers) == ((str(lab.subnet),), 0, ())
    assert [plugin.type for plugin in first.plugins] == ["bridge", "two"]
    assert first.plugins[0].capabilities == ("ips",)
    assert first.plugins[1].path == str(lab.directory / "bin" / "two")
    assert "1.1.0" in first.plugins[1].versions
    assert (handlers.name, handlers.handlers, handlers.interface) == ("own-net", (str(own),), "eth0")
    assert (other.name, other.interface, other.mtu, other.attached) == ("b", "", 1400, 0)
    assert "not-there is in none of" in other.problem
    file.unlink()
    (gone,) = [one for one in await network.networks() if one.name == "a"]
    assert (gone.source, gone.interface, gone.attached) == ("", "", 1)
    assert gone.problem == "its configuration no longer exists"
