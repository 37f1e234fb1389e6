"""The picture of a pod's network, as text."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from crib.cli.network_picture import ASCII, LINES, MAX_LINES, MAX_ROUTES, pen_for, picture, rate
from crib.stubs.node.v1.node_pb2 import (
    InspectPodNetworkResponse,
    Network,
    NetworkPlugin,
    PodForward,
    PodInterface,
    PodRoute,
)

BRIDGE = Network(
    name="crib0",
    kind="bridge",
    source="settings",
    interface="eth0",
    attached=3,
    subnets=["10.203.0.0/16", "fd00:203::/64"],
    gateways=["10.203.0.1", "fd00:203::1"],
    mtu=1500,
)


def plugins(*types: str, missing: str = "") -> list[NetworkPlugin]:
    return [NetworkPlugin(type=name, path="" if name == missing else f"/cni/{name}") for name in types]


def bridged(**changes: object) -> InspectPodNetworkResponse:
    """A pod on the built-in bridge; `changes` are of its message."""
    pod = InspectPodNetworkResponse(
        pod_sandbox_id="0123456789abcdef",
        pod="default/web",
        networks=["crib0"],
        network_interfaces=["eth0"],
        addresses=["10.203.0.5", "fd00:203::5"],
        interfaces=[
            PodInterface(
                name="eth0",
                mac="c2:1b:0a:cb:00:05",
                mtu=1500,
                up=True,
                addresses=["10.203.0.5/16", "fd00:203::5/64"],
                host_interface="crib8d9e7f6a5b4",
                host_bridge="crib0",
            )
        ],
        routes=[
            PodRoute(destination="default", gateway="10.203.0.1", interface="eth0"),
            PodRoute(destination="10.203.0.0/16", interface="eth0"),
        ],
        netns="/run/crib/0123456789abcdef/netns",
    )
    pod.MergeFrom(InspectPodNetworkResponse(**changes))  # type: ignore[arg-type]  # whatever the message has
    return pod


def drawn(pod: InspectPodNetworkResponse, *networks: Network, width: int = 80) -> str:
    return "\n".join(picture(pod, networks, width))


def golden(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


def test_a_pod_on_the_built_in_bridge() -> None:
    pod = bridged(
        forwards=[
            PodForward(protocol="tcp", host_address="*", host_port=8080, pod_port=80),
            PodForward(protocol="udp", host_address="fd00::1", host_port=53, pod_port=5353),
        ],
        ingress_rate=10_000_000,
        egress_rate=2_500_000,
    )
    assert drawn(pod, BRIDGE) == golden("""
        ┌─ pod default/web (0123456789ab) ─────────────────────┐
        │ namespace  /run/crib/0123456789abcdef/netns          │
        │ eth0       10.203.0.5/16                             │
        │            fd00:203::5/64                            │
        │            mac c2:1b:0a:cb:00:05, mtu 1500           │
        │ routes     default via 10.203.0.1 on eth0            │
        │            10.203.0.0/16 on eth0                     │
        └─┬────────────────────────────────────────────────────┘
          │ at most 10 Mbit/s into the pod, 2.5 Mbit/s out of it
          │ eth0 in the pod
          │ crib8d9e7f6a5b4 on the host
        ┌─┴─ bridge crib0 ─────────────────────────────────────┐
        │ kind     built in                                    │
        │ subnet   10.203.0.0/16                               │
        │ subnet   fd00:203::/64                               │
        │ gateway  10.203.0.1                                  │
        │ gateway  fd00:203::1                                 │
        └─┬────────────────────────────────────────────────────┘
          │ masquerade
          ▼ out by the host's routes

        ports of the host
          tcp *:8080       ──→ port 80 of the pod
          udp [fd00::1]:53 ──→ port 5353 of the pod
        """)


def test_the_same_in_ascii_with_what_it_cannot_say_replaced() -> None:
    pod = bridged(forwards=[PodForward(protocol="tcp", host_address="*", host_port=80, pod_port=80)])
    network = Network(name="übers", kind="bridge", interface="eth0", problem="away")
    pod.networks[:] = ["übers"]
    assert "\n".join(picture(pod, [network], 80, ASCII)) == golden("""
        +- pod default/web (0123456789ab) ------------+
        | namespace  /run/crib/0123456789abcdef/netns |
        | eth0       10.203.0.5/16                    |
        |            fd00:203::5/64                   |
        |            mac c2:1b:0a:cb:00:05, mtu 1500  |
        | routes     default via 10.203.0.1 on eth0   |
        |            10.203.0.0/16 on eth0            |
        +-+-------------------------------------------+
          | eth0 in the pod
          | crib8d9e7f6a5b4 on the host
        +-+- bridge crib0 ----------------------------+
        | network  ?bers                              |
        | kind     built in                           |
        | problem  X away                             |
        +-+-------------------------------------------+
          | masquerade
          v out by the host's routes

        ports of the host
          tcp *:80 --> port 80 of the pod
        """)


def test_several_networks_of_which_some_are_broken() -> None:
    pod = bridged(
        interfaces=[
            PodInterface(name="eth1", mac="aa:bb:cc:dd:ee:ff", mtu=9000, host_interface="veth12345678"),
            PodInterface(name="tun0", mtu=1400, up=True, addresses=["192.168.7.1/32"]),
        ]
    )
    pod.networks[:] = ["main", "storage", "direct"]
    pod.network_interfaces[:] = ["eth0", "eth1", "eth2"]
    pod.interfaces[0].host_bridge = "cni0"
    networks = [
        Network(
            name="main",
            kind="cni",
            version="1.0.0",
            interface="eth0",
            plugins=plugins("bridge", "portmap", "bandwidth", missing="bandwidth"),
            problem="plugin bandwidth is in none of /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni",
        ),
        Network(name="storage", kind="cni", version="1.1.0", plugins=plugins("bridge")),
        Network(name="direct", kind="cni", plugins=plugins("macvlan")),
    ]
    assert drawn(pod, *networks) == golden("""
        ┌─ pod default/web (0123456789ab) ─────────────────────────────────────────────┐
        │ namespace  /run/crib/0123456789abcdef/netns                                  │
        │ eth0       10.203.0.5/16                                                     │
        │            fd00:203::5/64                                                    │
        │            mac c2:1b:0a:cb:00:05, mtu 1500                                   │
        │ eth1       mac aa:bb:cc:dd:ee:ff, mtu 9000, down                             │
        │ eth2       ✗ not there, of direct                                            │
        │ tun0       192.168.7.1/32                                                    │
        │            mtu 1400                                                          │
        │ routes     default via 10.203.0.1 on eth0                                    │
        │            10.203.0.0/16 on eth0                                             │
        └─┬───┬───┬────────────────────────────────────────────────────────────────────┘
          │   │   ✗ eth2 is missing
          │   │ ┌─┴─ network direct ───────────────────────────────────────────────────┐
          │   │ │ kind     CNI                                                         │
          │   │ │ plugins  macvlan                                                     │
          │   │ └──────────────────────────────────────────────────────────────────────┘
          │   │
          │   ✗ eth1 in the pod, which is down
          │   ✗ eth1 has no address
          │   ✗ veth12345678 on the host, a port of no bridge
          │ ┌─┴─ network storage ──────────────────────────────────────────────────────┐
          │ │ kind     CNI 1.1.0                                                       │
          │ │ plugins  bridge                                                          │
          │ └──────────────────────────────────────────────────────────────────────────┘
          │
          │ eth0 in the pod
          │ crib8d9e7f6a5b4 on the host
        ┌─┴─ bridge cni0 ──────────────────────────────────────────────────────────────┐
        │ network  main                                                                │
        │ kind     CNI 1.0.0                                                           │
        │ plugins  bridge → portmap → bandwidth (not found)                            │
        │ problem  ✗ plugin bandwidth is in none of /opt/cni/bin, /usr/lib/cni,        │
        │          /usr/libexec/cni                                                    │
        └─┬────────────────────────────────────────────────────────────────────────────┘
          ▼ out by the host's routes
        """)


def test_a_pod_whose_interface_is_gone_and_an_address_that_is_only_on_record() -> None:
    pod = bridged()
    del pod.interfaces[:], pod.routes[:], pod.addresses[1:]
    assert drawn(pod, BRIDGE, width=44) == golden("""
        ┌─ pod default/web (0123456789ab) ─────────┐
        │ namespace  /run/crib/0123456789abcdef/ne │
        │            tns                           │
        │ eth0       ✗ not there, of crib0         │
        │ recorded   ✗ 10.203.0.5, which no        │
        │            interface has                 │
        └─┬────────────────────────────────────────┘
          ✗ eth0 is missing
        ┌─┴─ network crib0 ────────────────────────┐
        │ kind     built in                        │
        │ subnet   10.203.0.0/16                   │
        │ subnet   fd00:203::/64                   │
        │ gateway  10.203.0.1                      │
        │ gateway  fd00:203::1                     │
        └──────────────────────────────────────────┘
        """)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"up": False}, "  ✗ eth0 in the pod, which is down"),
        ({"addresses": []}, "  ✗ eth0 has no address"),
        ({"host_interface": "", "host_bridge": ""}, "  ✗ its end on the host is missing"),
        ({"host_bridge": ""}, "  ✗ crib8d9e7f6a5b4 on the host, a port of no bridge"),
    ],
)
def test_what_is_broken_is_marked_where_it_is(change: dict[str, object], line: str) -> None:
    pod = bridged()
    assert "✗" not in drawn(pod, BRIDGE)
    for name, value in change.items():
        pod.interfaces[0].ClearField(name)  # type: ignore[arg-type]  # the parameters above
        if value:
            setattr(pod.interfaces[0], name, value)
    assert line in drawn(pod, BRIDGE).splitlines()


def test_a_bridged_pod_without_a_default_route_has_no_way_out() -> None:
    pod = bridged()
    del pod.routes[0]
    lines = drawn(pod, BRIDGE).splitlines()
    assert lines[-1] == "  ✗ the pod has no default route"


def test_a_pod_of_the_hosts_network_and_one_that_has_stopped() -> None:
    about: dict[str, Any] = {"pod_sandbox_id": "0123456789abcdef", "pod": "default/web"}
    assert drawn(InspectPodNetworkResponse(**about, host_network=True), BRIDGE) == golden("""
        ┌─ pod default/web (0123456789ab) ─────┐
        │ network  the host's own              │
        └──────────────────────────────────────┘
        """)
    assert "none: the pod has stopped" in drawn(InspectPodNetworkResponse(**about), BRIDGE)
    bare = InspectPodNetworkResponse(**about, netns="/run/netns")
    assert drawn(bare).splitlines()[-2] == "│ network    ✗ no interface            │"


def test_a_network_that_is_no_longer_configured_leaves_its_interface_and_bridge() -> None:
    assert drawn(bridged()).splitlines()[-4:] == [
        "  │ crib8d9e7f6a5b4 on the host",
        "┌─┴─ bridge crib0 ────────────────────────────┐",
        "└─┬───────────────────────────────────────────┘",
        "  ▼ out by the host's routes",
    ]


def test_of_two_networks_of_one_name_the_nodes_own_is_meant() -> None:
    pod = bridged()
    pod.networks[:] = ["pods"]
    networks = [Network(name="pods", kind="cni", version="1.0.0"), Network(name="pods", kind="cni")]
    assert "│ kind     CNI 1.0.0 " in drawn(pod, *networks)


@pytest.mark.parametrize("width", [1, 40, 60, 80, 200])
@pytest.mark.parametrize("pen", [LINES, ASCII], ids=["lines", "ascii"])
def test_many_interfaces_and_long_values_keep_to_the_width(width: int, pen: object) -> None:
    address = "fd00:1234:5678:9abc:def0:1234:5678:9abc/128"
    count = MAX_LINES + 3
    pod = InspectPodNetworkResponse(
        pod_sandbox_id="f" * 64,
        pod=f"{'n' * 63}/{'p' * 253}",
        networks=[f"net{number}" for number in range(count)],
        network_interfaces=[f"eth{number}" for number in range(count)],
        netns=f"/run/crib/{'f' * 64}/netns",
        interfaces=[
            PodInterface(
                name=f"eth{number}",
                mac="aa:bb:cc:dd:ee:ff",
                mtu=65535,
                up=True,
                addresses=[address] * 3,
                host_interface="veth12345678abc",
                host_bridge="bridge-abcdefgh",
            )
            for number in range(count)
        ],
        routes=[PodRoute(destination=address, gateway=address.removesuffix("/128"), interface="eth0")]
        * (MAX_ROUTES + 5),
    )
    networks = [
        Network(name=f"net{n}", kind="cni", plugins=plugins("x" * 40, "y" * 90), problem="why\x1b[31m " * 30)
        for n in range(count)
    ]
    lines = picture(pod, networks, width, ASCII if pen is ASCII else LINES)
    longest = max(map(len, lines))
    least = 40 + 4 * (MAX_LINES - 1)
    assert longest == max(least, min(width, 100))
    assert not [line for line in lines if not line.isprintable()]
    boxed = [line for line in lines if line[-1:] in "│┐┘|+"]
    assert {len(line) for line in boxed if len(line) > least // 2} == {longest}
    assert any("and 5 more" in line for line in lines)
    assert sum("bridge bridge-abcdefgh" in line for line in lines) == MAX_LINES


@pytest.mark.parametrize(
    ("encoding", "pen"),
    [("utf-8", LINES), ("ascii", ASCII), ("iso-8859-1", ASCII), ("nosuch", ASCII), (None, ASCII)],
)
def test_box_characters_are_used_where_the_output_has_them(encoding: str | None, pen: object) -> None:
    assert pen_for(encoding) is pen


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (7, "7 bit/s"),
        (64_000, "64 kbit/s"),
        (1_500_000, "1.5 Mbit/s"),
        (10**9, "1 Gbit/s"),
        (10**12, "1000 Gbit/s"),
    ],
)
def test_a_rate_is_in_its_largest_unit(bits: int, text: str) -> None:
    assert rate(bits) == text


def test_a_limit_of_one_direction_says_which() -> None:
    assert "  │ at most 1 Mbit/s out of the pod" in drawn(bridged(egress_rate=10**6), BRIDGE).splitlines()
    assert "  │ at most 1 Mbit/s into the pod" in drawn(bridged(ingress_rate=10**6), BRIDGE).splitlines()


def test_a_note_that_is_too_long_goes_on_beside_its_line() -> None:
    pod = bridged(ingress_rate=10_000_000, egress_rate=2_500_000)
    pod.interfaces[0].ClearField("host_bridge")
    lines = drawn(pod, width=40).splitlines()
    assert max(map(len, lines)) == 40
    at = lines.index("  │ at most 10 Mbit/s into the pod, 2.5")
    assert lines[at + 1] == "  │ Mbit/s out of it"
    broken = drawn(pod, BRIDGE, width=40).splitlines()
    at = broken.index("  ✗ crib8d9e7f6a5b4 on the host, a port")
    assert broken[at + 1] == "  │ of no bridge"


def test_a_link_to_the_host_that_is_of_no_known_network_ends_there() -> None:
    extra = PodInterface(name="own", mac="aa:bb:cc:dd:ee:ff", mtu=1500, up=True, host_interface="veth1")
    extra.addresses.append("192.168.0.1/24")
    lines = drawn(bridged(interfaces=[extra]), BRIDGE).splitlines()
    at = lines.index("  │   │ own in the pod")
    assert lines[at + 1 : at + 4] == ["  │   │ veth1 on the host", "  │", "  │ eth0 in the pod"]


@pytest.mark.parametrize(("count", "shown"), [(MAX_ROUTES, False), (MAX_ROUTES + 1, True)])
def test_routes_beyond_a_number_are_counted_only(count: int, shown: bool) -> None:
    pod = bridged()
    del pod.routes[:]
    pod.routes.extend(PodRoute(destination=f"10.0.{n}.0/24", interface="eth0") for n in range(count))
    text = drawn(pod, BRIDGE)
    assert ("and 1 more" in text) is shown
    assert f"10.0.{MAX_ROUTES - 1}.0/24 on eth0" in text
