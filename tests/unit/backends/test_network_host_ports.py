"""Host ports and rules: from mappings to map elements, without a kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from crib.backends.network.bridge import host_ports
from crib.backends.network.bridge.forward_policy import is_dropping, names_any
from crib.backends.network.bridge.host_ports import (
    HostPort,
    PodPort,
    conflict,
    forwards_of,
    parse_maps,
    views,
)
from crib.backends.network.bridge.rules import RuleSettings, ruleset
from crib.model.errors import InvalidRequest
from crib.model.network import ForwardView
from crib.model.sandbox import PortMapping, Protocol

POD = IPv4Address("10.0.0.2")
POD6 = IPv6Address("fd00::2")
ANY6 = IPv6Address("::")


def test_mappings_without_a_host_port_ask_for_nothing() -> None:
    assert forwards_of([PortMapping(80)], [POD]) == {}


@pytest.mark.parametrize(
    ("host_ip", "addresses"),
    [("", [POD, POD6]), ("::", [POD, POD6]), ("0.0.0.0", [POD]), ("10.1.1.1", [POD])],
)
def test_a_mapping_is_on_the_families_that_a_socket_bound_to_its_address_would_be(
    host_ip: str, addresses: list[host_ports.Address]
) -> None:
    found = forwards_of([PortMapping(53, 1053, Protocol.UDP, host_ip)], [POD, POD6])
    assert list(found.values()) == [PodPort(address, 53) for address in addresses]
    assert {(key.protocol, key.port) for key in found} == {(17, 1053)}


def test_a_pod_without_ipv6_has_its_ports_on_ipv4_alone() -> None:
    assert forwards_of([PortMapping(80, 8080, host_ip="::")], [POD]) == {HostPort(6, 8080): PodPort(POD, 80)}


@pytest.mark.parametrize(
    ("mapping", "field"),
    [
        (PortMapping(80, 65536), r"port_mappings\[0\]\.host_port"),
        (PortMapping(80, -1), r"port_mappings\[0\]\.host_port"),
        (PortMapping(0, 80), r"port_mappings\[0\]\.container_port"),
        (PortMapping(80, 80, host_ip="fd00::1"), r"port_mappings\[0\]\.host_ip.*IPv6"),
        (PortMapping(80, 80, host_ip="x; flush ruleset"), r"port_mappings\[0\]\.host_ip"),
        (PortMapping(80, 80, host_ip="fe80::1%eth0"), r"port_mappings\[0\]\.host_ip"),
        (PortMapping(80, 80, host_ip="::ffff:10.0.0.1"), r"port_mappings\[0\]\.host_ip"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_naming_its_field(mapping: PortMapping, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        forwards_of([mapping], [POD])


def test_ipv6s_loopback_is_refused_saying_what_to_use() -> None:
    with pytest.raises(InvalidRequest, match=r"host_ip: .*127\.0\.0\.1"):
        forwards_of([PortMapping(80, 80, host_ip="::1")], [POD, POD6])


def test_one_host_port_asked_for_twice_is_refused_unless_it_leads_to_the_same() -> None:
    assert len(forwards_of([PortMapping(80, 8080), PortMapping(80, 8080)], [POD])) == 1
    with pytest.raises(InvalidRequest, match=r"port_mappings\[1\]\.host_port"):
        forwards_of([PortMapping(80, 8080), PortMapping(81, 8080)], [POD])


@pytest.mark.parametrize(
    ("one", "other", "excludes"),
    [
        (HostPort(6, 80), HostPort(6, 80), True),
        (HostPort(6, 80), HostPort(6, 80, IPv4Address("127.0.0.1")), True),
        (HostPort(6, 80, IPv4Address("127.0.0.1")), HostPort(6, 80, IPv4Address("127.0.0.2")), False),
        (HostPort(6, 80), HostPort(17, 80), False),
        (HostPort(6, 80), HostPort(6, 81), False),
        (HostPort(6, 80), HostPort(6, 80, ANY6), False),
        (HostPort(6, 80, ANY6), HostPort(6, 80, IPv6Address("fd00::9")), True),
    ],
)
def test_ports_exclude_each_other_if_a_packet_could_be_for_both(
    one: HostPort, other: HostPort, excludes: bool
) -> None:
    assert one.excludes(other) == other.excludes(one) == excludes
    target = PodPort(IPv4Address("10.0.0.9"), 80)
    found = conflict({one: PodPort(POD, 80)}, {other: target}, {POD})
    assert found == ((one, target) if excludes else None)
    assert conflict({one: PodPort(POD, 80)}, {other: PodPort(POD, 81)}, {POD}) is None


def test_elements_go_to_the_map_of_their_kind_and_come_back_from_it() -> None:
    mappings = [
        PortMapping(80, 8080),
        PortMapping(90, 8090, Protocol.SCTP, "127.0.0.1"),
        PortMapping(91, 8091, host_ip="fd00::9"),
    ]
    forwards = forwards_of(mappings, [POD, POD6])
    assert host_ports.elements("add", "t", forwards).splitlines() == [
        "add element inet t ports_any { 6 . 8080 : 10.0.0.2 . 80 }",
        "add element inet t ports_ip { 127.0.0.1 . 132 . 8090 : 10.0.0.2 . 90 }",
        "add element inet t ports6_any { 6 . 8080 : fd00::2 . 80 }",
        "add element inet t ports6_ip { fd00::9 . 6 . 8091 : fd00::2 . 91 }",
    ]
    assert host_ports.elements("delete", "t", forwards).splitlines() == [
        "delete element inet t ports_any { 6 . 8080 }",
        "delete element inet t ports_ip { 127.0.0.1 . 132 . 8090 }",
        "delete element inet t ports6_any { 6 . 8080 }",
        "delete element inet t ports6_ip { fd00::9 . 6 . 8091 }",
    ]
    assert host_ports.elements("add", "t", {}) == ""
    listed: dict[str, Any] = {
        "ports_any": [(("6", "8080"), ("10.0.0.2", "80"))],
        "ports_ip": [(("127.0.0.1", "sctp", "8090"), ("10.0.0.2", "90"))],
        "ports6_any": [(("tcp", "8080"), ("fd00::2", "80"))],
        "ports6_ip": [(("fd00::9", "6", "8091"), ("fd00::2", "91"))],
    }
    assert parse_maps(listed) == forwards


@pytest.mark.parametrize(
    ("key", "value"),
    [(("6",), ("10.0.0.2", "81")), (("6", "80"), ("10.0.0.2",)), (("6", "x"), ("10.0.0.2", "81"))],
)
def test_strange_elements_are_nothing(key: tuple[str, ...], value: tuple[str, ...]) -> None:
    assert parse_maps({"ports_any": [(key, value)], "others": [(("6", "80"), ("10.0.0.2", "81"))]}) == {}


def test_the_ruleset_names_only_its_own_table_and_lists_every_range() -> None:
    ranges = (IPv4Network("10.1.0.0/16"), IPv4Network("10.0.0.2/32"), IPv6Network("fd00::/64"))
    settings = RuleSettings("crib_t", "br9", native=(IPv6Network("fd01::/64"),))
    lines = [line for line in ruleset(settings, ranges, {}).splitlines() if line]
    assert all(" inet crib_t" in line for line in lines)
    assert "add element inet crib_t pods { 10.0.0.2/32, 10.1.0.0/16 }" in lines
    assert "add element inet crib_t pods6 { fd00::/64 }" in lines
    assert "add element inet crib_t native6 { fd01::/64 }" in lines
    assert not [line for line in lines if "add element" in line and " native {" in line]


def test_only_packets_to_the_hosts_own_addresses_are_led_to_pods() -> None:
    lines = ruleset(RuleSettings("t", "br9"), (), {}).splitlines()
    jumps = [line for line in lines if "jump host_ports" in line]
    assert len(jumps) == 2
    assert all("fib daddr type local jump" in line for line in jumps)
    assert all(
        " t host_ports " in line
        for line in lines
        if " dnat " in line and "add rule" in line and "map" in line
    )


def test_isolation_forbids_last_what_it_allows_first() -> None:
    rules = [
        line
        for line in ruleset(RuleSettings("t", "br9", isolated=True), (), {}).splitlines()
        if " t forward " in line
    ]
    assert [line.split()[-1] for line in rules if "add rule" in line] == ["accept", "drop"]


def test_a_host_port_reads_well_in_a_message() -> None:
    assert str(HostPort(6, 80)) == str(HostPort(6, 80, ANY6)) == "tcp *:80"
    assert str(HostPort(17, 53, IPv4Address("127.0.0.1"))) == "udp 127.0.0.1:53"
    assert str(HostPort(132, 53, IPv6Address("fd00::1"))) == "sctp [fd00::1]:53"


def test_one_port_of_both_families_is_shown_once() -> None:
    forwards = forwards_of([PortMapping(80, 8080), PortMapping(81, 8081, host_ip="fd00::9")], [POD, POD6])
    assert views(forwards) == (ForwardView("tcp", "*", 8080, 80), ForwardView("tcp", "fd00::9", 8081, 81))


@pytest.mark.parametrize(
    ("changed", "is_told"),
    [
        ({}, True),
        ({"policy": "accept"}, False),
        ({"hook": "input"}, False),
        ({"table": "own"}, False),
        ({"family": "ip6"}, False),
        ({"family": "inet"}, True),
        ({"family": "bridge"}, False),
    ],
)
def test_a_chain_is_told_of_if_it_drops_what_is_forwarded(changed: dict[str, str], is_told: bool) -> None:
    chain = {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}
    assert is_dropping(chain | changed, "own", {4}) == is_told


def test_a_table_in_whose_rules_the_bridge_is_named_was_set_up_for_it() -> None:
    rule = {"rule": {"expr": [{"match": {"left": {"meta": {"key": "iifname"}}, "right": "crib0"}}]}}
    assert names_any([{"chain": {"name": "crib0"}}, rule], ["crib0"])
    assert not names_any([{"chain": {"name": "crib0"}}, rule], ["crib"])
