"""Networks: messages of crib.v1 to values and back."""

from __future__ import annotations

import pytest

from crib.api.translate import networks
from crib.api.translate.limits import MAX_ID, MAX_PODS
from crib.model.errors import InvalidRequest
from crib.model.network import (
    ForwardView,
    InterfaceView,
    NetworkCheck,
    NetworkInfo,
    NetworkPlugin,
    PodNetworkView,
    RouteView,
)
from crib.model.sandbox import NamespaceMode, NamespaceOptions, PodSecurity, SandboxConfig
from crib.stubs.node.v1 import node_pb2 as pb
from tests.unit.api.fake_node import sandbox

PLUGIN = NetworkPlugin("bridge", "/cni/bridge", ("0.4.0", "1.0.0"), ("portMappings",))
INFO = NetworkInfo(
    name="pods",
    kind="cni",
    source="/etc/cni/net.d/10-pods.conflist",
    interface="eth0",
    attached=7,
    version="1.0.0",
    plugins=(PLUGIN, NetworkPlugin("nosuch", "")),
    subnets=("10.1.0.0/24",),
    gateways=("10.1.0.1",),
    mtu=1400,
    handlers=("/etc/cni/kata",),
    problem="plugin nosuch is not there",
)
VIEW = PodNetworkView(
    networks=("pods", "more"),
    network_interfaces=("eth0", ""),
    interfaces=(InterfaceView("eth0", "aa:bb", 1400, True, ("10.1.0.5/24",), "veth1", "cni0"),),
    routes=(RouteView("default", "10.1.0.1", "eth0"), RouteView("10.1.0.0/24", "", "eth0")),
    forwards=(ForwardView("tcp", "*", 8080, 80),),
    ingress_rate=10**10,
    egress_rate=5,
)


def test_a_network_is_told_with_all_of_its_fields() -> None:
    (told,) = networks.encode_networks([INFO]).networks
    assert told == pb.Network(
        name="pods",
        kind="cni",
        source="/etc/cni/net.d/10-pods.conflist",
        interface="eth0",
        attached=7,
        version="1.0.0",
        plugins=[
            pb.NetworkPlugin(
                type="bridge",
                path="/cni/bridge",
                versions=["0.4.0", "1.0.0"],
                capabilities=["portMappings"],
            ),
            pb.NetworkPlugin(type="nosuch"),
        ],
        subnets=["10.1.0.0/24"],
        gateways=["10.1.0.1"],
        mtu=1400,
        handlers=["/etc/cni/kata"],
        problem="plugin nosuch is not there",
    )
    assert not networks.encode_networks([]).networks


def test_a_pods_view_is_told_with_all_of_its_fields() -> None:
    told = networks.encode_view(sandbox(), "/run/netns", VIEW)
    assert told == pb.InspectPodNetworkResponse(
        pod_sandbox_id=sandbox().id,
        pod="space/pod1",
        networks=["pods", "more"],
        network_interfaces=["eth0", ""],
        addresses=["10.88.0.2", "fd00::2"],
        interfaces=[
            pb.PodInterface(
                name="eth0",
                mac="aa:bb",
                mtu=1400,
                up=True,
                addresses=["10.1.0.5/24"],
                host_interface="veth1",
                host_bridge="cni0",
            )
        ],
        routes=[
            pb.PodRoute(destination="default", gateway="10.1.0.1", interface="eth0"),
            pb.PodRoute(destination="10.1.0.0/24", interface="eth0"),
        ],
        forwards=[pb.PodForward(protocol="tcp", host_address="*", host_port=8080, pod_port=80)],
        ingress_rate=10**10,
        egress_rate=5,
        netns="/run/netns",
    )


def test_a_pod_of_the_hosts_network_has_nothing_but_that() -> None:
    security = PodSecurity(namespaces=NamespaceOptions(network=NamespaceMode.NODE))
    config = SandboxConfig(sandbox().config.metadata, security=security)
    told = networks.encode_view(sandbox(config=config, network=None), "", PodNetworkView())
    assert told == pb.InspectPodNetworkResponse(
        pod_sandbox_id=sandbox().id, pod="space/pod1", host_network=True
    )


def test_a_check_is_told_with_all_of_its_fields() -> None:
    found = NetworkCheck(sandbox().id, "space/pod1", "eth0 is down", True, "no")
    assert networks.encode_check(found) == pb.NetworkCheck(
        pod_sandbox_id=sandbox().id,
        pod="space/pod1",
        problem="eth0 is down",
        repaired=True,
        repair_error="no",
    )


def test_requests_name_pods_by_ids_of_a_bounded_number() -> None:
    assert networks.decode_inspect(pb.InspectPodNetworkRequest(pod_sandbox_id="ab12")) == "ab12"
    wanted = pb.CheckNetworksRequest(pod_sandbox_ids=["ab12", "cd34"], repair=True)
    assert networks.decode_check(wanted) == networks.CheckNetworks(("ab12", "cd34"), True)
    assert networks.decode_check(pb.CheckNetworksRequest()) == networks.CheckNetworks((), False)
    many = pb.CheckNetworksRequest(pod_sandbox_ids=["a"] * MAX_PODS)
    assert len(networks.decode_check(many).sandboxes) == MAX_PODS
    many.pod_sandbox_ids.append("a")
    with pytest.raises(InvalidRequest, match=r"^pod_sandbox_ids: has 10001 entries"):
        networks.decode_check(many)


@pytest.mark.parametrize("text", ["", "a" * (MAX_ID + 1)])
def test_an_id_that_can_be_none_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^pod_sandbox_id: is "):
        networks.decode_inspect(pb.InspectPodNetworkRequest(pod_sandbox_id=text))
    with pytest.raises(InvalidRequest, match=r"^pod_sandbox_ids\[1\]: is "):
        networks.decode_check(pb.CheckNetworksRequest(pod_sandbox_ids=["a", text]))


def test_everything_is_collected_only_when_asked_for() -> None:
    assert networks.decode_collect(pb.CollectNetworkGarbageRequest()) is False
    assert networks.decode_collect(pb.CollectNetworkGarbageRequest(everything=True)) is True
