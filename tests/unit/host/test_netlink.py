"""Netlink messages: lengths are believed only as far as the bytes go."""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.host import links, netlink
from crib.host.addresses import list_addresses, list_all_addresses
from crib.host.routes import default_mtu, list_routes


def message(kind: int, body: bytes, sequence: int = 1, length: int | None = None) -> bytes:
    total = 16 + len(body) if length is None else length
    return struct.pack("=IHHII", total, kind, 0, sequence, 0) + body + bytes(-len(body) % 4)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_come_back_as_they_were_packed(attributes: dict[int, bytes]) -> None:
    packed = b"".join(netlink.attribute(kind, value) for kind, value in attributes.items())
    assert netlink.parse_attributes(packed) == attributes


@given(st.binary(max_size=200))
def test_any_bytes_parse_as_attributes_or_are_refused(data: bytes) -> None:
    try:
        found = netlink.parse_attributes(data)
    except netlink.MalformedMessage:
        return
    assert sum(len(value) for value in found.values()) <= len(data)


@given(st.binary(max_size=200))
def test_any_bytes_split_into_messages_or_are_refused(data: bytes) -> None:
    try:
        found = list(netlink.split_messages(data))
    except netlink.MalformedMessage:
        return
    assert sum(16 + len(body) for *_, body in found) <= len(data)


@pytest.mark.parametrize("length", [0, 3, 9, 0xFFFF])
def test_an_attribute_longer_than_its_message_or_shorter_than_its_header_is_refused(length: int) -> None:
    with pytest.raises(netlink.MalformedMessage):
        netlink.parse_attributes(struct.pack("=HH", length, 1) + b"abcd")


@pytest.mark.parametrize("length", [0, 15, 21, 0xFFFFFFFF])
def test_a_message_whose_length_does_not_fit_is_refused(length: int) -> None:
    with pytest.raises(netlink.MalformedMessage):
        list(netlink.split_messages(message(2, b"abcd", length=length)))


def test_two_messages_in_one_datagram_are_both_found() -> None:
    found = list(netlink.split_messages(message(16, b"abc") + message(3, b"", sequence=2)))
    assert [(kind, sequence, body) for kind, _, sequence, body in found] == [(16, 1, b"abc"), (3, 2, b"")]


def test_an_attribute_that_does_not_fit_its_length_field_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        netlink.attribute(1, bytes(0x10000))


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 16, "a/b", "a b", "a:b", "\N{SNOWMAN}" * 6])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="interface name"):
        links.check_interface_name(name)


@pytest.mark.parametrize("mac", ["", "00:11:22:33:44", "00:11:22:33:44:55:66", "zz:11:22:33:44:55"])
def test_a_mac_that_is_not_six_bytes_is_refused(mac: str) -> None:
    with pytest.raises(ValueError):
        links.mac_bytes(mac)


def test_an_interface_that_is_not_there_is_named_in_the_error() -> None:
    with netlink.Netlink() as socket, pytest.raises(OSError, match="look up interface") as caught:
        links.get_link(socket, "no-such-link")
    assert caught.value.filename == "no-such-link"


def test_loopback_is_listed_with_its_addresses() -> None:
    with netlink.Netlink() as socket:
        loopback = links.get_link(socket, "lo")
        assert loopback in links.list_links(socket)
        assert loopback == links.link_at(socket, links.LOOPBACK_INDEX)
        addresses = list_addresses(socket, loopback)
        assert addresses[0] == IPv4Interface("127.0.0.1/8")
        assert ("lo", addresses[0]) in list_all_addresses(socket)


def test_routes_of_loopback_and_of_links_alone_are_not_listed() -> None:
    with netlink.Netlink() as socket:
        for route in list_routes(socket):
            assert route.index != links.LOOPBACK_INDEX
            assert not route.destination.is_loopback
            assert not route.destination.is_multicast
        assert default_mtu(socket) == 0 or default_mtu(socket) >= 68


def test_a_request_is_refused_without_harm_to_the_next_one() -> None:
    with netlink.Netlink() as socket:
        with pytest.raises(OSError):
            links.set_link_mtu(socket, "no-such-link", 1500)
        assert links.get_link(socket, "lo").index == links.LOOPBACK_INDEX


def test_a_transaction_that_is_refused_as_a_whole_is_refused_at_once() -> None:
    no_subsystem = 255
    request = netlink.Request(no_subsystem << 8, b"\0" * 4, "change", "nothing")
    with netlink.Netlink(netlink.NETLINK_NETFILTER) as socket, pytest.raises(OSError) as refused:
        socket.transact(no_subsystem, [request])
    assert refused.value.errno == errno.EINVAL
