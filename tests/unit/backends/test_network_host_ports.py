"""Host ports: from mappings to map elements, without a kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from crib.backends.network import host_ports
from crib.backends.network.host_ports import HostPort, PodPort, forwards_of
from crib.model.errors import InvalidRequest
from crib.model.sandbox import PortMapping, Protocol

POD = IPv4Address("10.0.0.2")


def test_mappings_without_a_host_port_ask_for_nothing() -> None:
    assert forwards_of([PortMapping(80)], POD) == {}


@pytest.mark.parametrize("any_address", ["", "0.0.0.0", "::"])
def test_a_mapping_on_all_addresses_has_no_address(any_address: str) -> None:
    found = forwards_of([PortMapping(53, 1053, Protocol.UDP, any_address)], POD)
    assert found == {HostPort(17, 1053): PodPort(POD, 53)}


@pytest.mark.parametrize(
    ("mapping", "field"),
    [
        (PortMapping(80, 65536), r"port_mappings\[0\]\.host_port"),
        (PortMapping(80, -1), r"port_mappings\[0\]\.host_port"),
        (PortMapping(0, 80), r"port_mappings\[0\]\.container_port"),
        (PortMapping(80, 80, host_ip="fd00::1"), r"port_mappings\[0\]\.host_ip.*IPv6"),
        (PortMapping(80, 80, host_ip="x; flush ruleset"), r"port_mappings\[0\]\.host_ip"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_naming_its_field(mapping: PortMapping, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        forwards_of([mapping], POD)


def test_one_host_port_asked_for_twice_is_refused_unless_it_leads_to_the_same() -> None:
    assert len(forwards_of([PortMapping(80, 8080), PortMapping(80, 8080)], POD)) == 1
    with pytest.raises(InvalidRequest, match=r"port_mappings\[1\]\.host_port"):
        forwards_of([PortMapping(80, 8080), PortMapping(81, 8080)], POD)


def test_elements_go_to_the_map_of_their_kind() -> None:
    forwards = forwards_of([PortMapping(80, 8080), PortMapping(90, 8090, Protocol.SCTP, "127.0.0.1")], POD)
    assert host_ports.elements("add", "t", forwards).splitlines() == [
        "add element inet t ports_any { 6 . 8080 : 10.0.0.2 . 80 }",
        "add element inet t ports_ip { 127.0.0.1 . 132 . 8090 : 10.0.0.2 . 90 }",
    ]
    assert host_ports.elements("delete", "t", forwards).splitlines() == [
        "delete element inet t ports_any { 6 . 8080 }",
        "delete element inet t ports_ip { 127.0.0.1 . 132 . 8090 }",
    ]
    assert host_ports.elements("add", "t", {}) == ""


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (("6", "80"), ("10.0.0.2", "81"), (HostPort(6, 80), PodPort(POD, 81))),
        (("udp", "80"), ("10.0.0.2", "81"), (HostPort(17, 80), PodPort(POD, 81))),
        (
            ("127.0.0.1", "6", "80"),
            ("10.0.0.2", "81"),
            (HostPort(6, 80, IPv4Address("127.0.0.1")), PodPort(POD, 81)),
        ),
        (("6",), ("10.0.0.2", "81"), None),
        (("6", "80"), ("10.0.0.2",), None),
        (("6", "x"), ("10.0.0.2", "81"), None),
    ],
)
def test_elements_are_read_back_and_strange_ones_are_nothing(
    key: tuple[str, ...], value: tuple[str, ...], expected: object
) -> None:
    assert host_ports._parse_element(key, value) == expected


def test_the_ruleset_names_only_its_own_table_and_lists_every_range() -> None:
    subnets = (IPv4Network("10.1.0.0/16"), IPv4Network("10.0.0.2/32"))
    lines = [line for line in host_ports.ruleset("crib_t", "br9", subnets, {}).splitlines() if line]
    assert all(" inet crib_t" in line for line in lines)
    assert "add element inet crib_t pods { 10.0.0.2/32, 10.1.0.0/16 }" in lines


def test_a_host_port_reads_well_in_a_message() -> None:
    assert str(HostPort(6, 80)) == "tcp *:80"
    assert str(HostPort(17, 53, IPv4Address("127.0.0.1"))) == "udp 127.0.0.1:53"
