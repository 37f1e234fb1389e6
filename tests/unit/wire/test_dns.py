"""DNS messages: what is written is read again, and whatever is read comes to an end."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import dns
from tests.dns_questions import header, opt, question

LABELS = st.lists(st.binary(min_size=1, max_size=20), max_size=8).map(tuple)


@given(LABELS)
def test_a_name_is_read_as_it_was_written(labels: dns.Labels) -> None:
    written = dns.write_name(labels)
    assert dns.read_name(b"head" + written + b"rest", 4) == (labels, 4 + len(written))


@given(st.binary(max_size=600))
def test_any_bytes_are_a_query_or_are_refused(data: bytes) -> None:
    for message in (data, struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 2) + data):
        try:
            query = dns.read_query(message)
        except dns.MalformedMessage:
            continue
        assert sum(map(len, query.labels)) <= dns.NAME_BYTES
        assert dns.read_query(dns.with_id(message, 9)).id == 9


@given(st.binary(max_size=600), st.integers(0, 0xFFFF))
def test_any_bytes_answer_a_query_or_do_not(data: bytes, ident: int) -> None:
    query = dns.read_query(question("a.b"))
    assert dns.is_answer_to(data, query, ident) in (True, False)
    reply = dns.refuse(data, dns.FORMAT_ERROR)
    assert not reply or (len(reply) == 12 and reply[:2] == data[:2])


@pytest.mark.parametrize("pointer", [b"\xc0\x0c", b"\xc0\x0e", b"\xff\xff", b"\x01a\xc0\x0c", b"\xc0"])
def test_a_pointer_to_itself_forwards_or_to_nowhere_is_refused(pointer: bytes) -> None:
    message = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + pointer
    with pytest.raises(dns.MalformedMessage):
        dns.read_query(message)


def test_a_pointer_back_is_followed_and_a_long_chain_of_them_is_not() -> None:
    assert dns.read_name(b"\x01a\0\x01b\xc0\x00rest", 3) == ((b"b", b"a"), 7)
    chain = b"\0" + b"".join(struct.pack("!H", 0xC000 | max(0, 2 * n - 1)) for n in range(dns.POINTERS + 1))
    assert dns.read_name(chain, len(chain) - 4)[0] == ()
    with pytest.raises(dns.MalformedMessage, match="pointer"):
        dns.read_name(chain, len(chain) - 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        question("a.b")[:-1],
        question("a.b", flags=0x8000),
        struct.pack("!HHHHHH", 1, 0, 2, 0, 0, 0) + question("a")[12:] * 2,
        struct.pack("!HHHHHH", 1, 0, 1, 0xFFFF, 0, 0) + question("a")[12:],
        question("a", extra=opt(1232))[:-1],
        struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 2) + question("a")[12:] + opt(512) * 2,
        struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + b"\x40a\0\0\x01\0\x01",
        struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\x01\0\x01",
    ],
)
def test_what_is_no_single_whole_question_is_refused(data: bytes) -> None:
    with pytest.raises(dns.MalformedMessage):
        dns.read_query(data)


def test_a_query_says_its_name_type_and_edns() -> None:
    query = dns.read_query(question("Web.Shop.pods", dns.AAAA, extra=opt(4096)))
    assert (query.name, query.kind, query.payload) == ((b"web", b"shop", b"pods"), dns.AAAA, 4096)
    assert query.labels[0] == b"Web"
    assert query.is_standard
    assert query.datagram_bytes == dns.DATAGRAM_BYTES
    assert dns.read_query(question("a")).datagram_bytes == 512
    assert dns.read_query(question("a", extra=opt(100))).datagram_bytes == 512
    assert not dns.read_query(question("a", flags=0x2800)).is_standard


def test_an_answer_keeps_id_question_and_its_case_and_holds_the_records() -> None:
    query = dns.read_query(question("Web.Shop.pods", extra=opt(1232)))
    record = dns.address_record(IPv4Address("10.0.0.2"), 5)
    message = dns.write_answer(query, dns.Answer(dns.NO_ERROR, (record,)), 512)
    assert header(message) == (7, 0x8580, 1, 1, 0, 1)
    assert b"\x03Web\x04Shop\x04pods\0" in message
    assert b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + bytes((10, 0, 0, 2)) in message
    assert dns.is_answer_to(message, query, 7)
    assert not dns.is_answer_to(message, query, 8)
    assert not dns.is_answer_to(message, dns.read_query(question("other")), 7)
    assert dns.is_answer_to(message, dns.read_query(question("wEb.shop.pods")), 7)


def test_a_missing_name_comes_with_the_zone_and_an_unknown_edns_version_says_so() -> None:
    query = dns.read_query(question("x.pods"))
    zone = dns.zone_record((b"pods",), 5)
    message = dns.write_answer(query, dns.Answer(dns.NO_SUCH_NAME, authority=(zone,)), 512)
    assert header(message)[1] & 0xF == dns.NO_SUCH_NAME
    assert header(message)[2:] == (1, 0, 1, 0)
    bad = dns.write_answer(dns.read_query(question("x", extra=opt(512, 1))), dns.Answer(dns.BAD_VERSION), 512)
    assert header(bad)[1] & 0xF == 0
    assert bad[-11:] == b"\0" + struct.pack("!HHIH", 41, dns.DATAGRAM_BYTES, 1 << 24, 0)


@given(st.integers(0, 60), st.sampled_from([None, 512, 1232, 4096]))
def test_an_answer_never_is_longer_than_its_bound_and_says_when_something_is_left_out(
    number: int, size: int | None
) -> None:
    query = dns.read_query(question("web.shop.pods", extra=b"" if size is None else opt(size)))
    records = [dns.address_record(IPv6Address(n), 5) for n in range(number)]
    message = dns.write_answer(query, dns.Answer(dns.NO_ERROR, records), query.datagram_bytes)
    assert len(message) <= query.datagram_bytes
    assert bool(header(message)[1] & 0x0200) == (header(message)[3] < number)


def test_a_failure_without_a_question_answers_any_query_and_an_answer_gets_none() -> None:
    query = dns.read_query(question("a"))
    assert dns.is_answer_to(dns.refuse(question("a"), dns.FORMAT_ERROR), query, 7)
    assert dns.refuse(question("a", flags=0x8000), dns.FORMAT_ERROR) == b""
    assert not dns.is_answer_to(struct.pack("!6H", 7, 0x8000, 0, 0, 0, 0), query, 7)


@pytest.mark.parametrize("address", ["10.203.0.255", "fd00::a:1", "::", "0.0.0.0"])
def test_the_reverse_name_of_an_address_leads_back_to_it(address: str) -> None:
    wanted = ip_address(address)
    assert dns.reverse_address(dns.labels_of(wanted.reverse_pointer)) == wanted


@pytest.mark.parametrize(
    "name", ["in-addr.arpa", "1.2.3.in-addr.arpa", "256.1.1.1.in-addr.arpa", "a.b", "x.ip6.arpa"]
)
def test_another_name_is_no_address(name: str) -> None:
    assert dns.reverse_address(dns.labels_of(name)) is None


@given(st.lists(st.binary(max_size=4), max_size=40).map(tuple))
def test_any_labels_below_arpa_are_an_address_or_are_not(labels: dns.Labels) -> None:
    for zone in ((b"in-addr", b"arpa"), (b"ip6", b"arpa")):
        assert isinstance(dns.reverse_address((*labels, *zone)), IPv4Address | IPv6Address | None)


@pytest.mark.parametrize("name", ["", ".", "a..b", "a b", "a" * 64, "é.x", ".".join(["a" * 60] * 5)])
def test_what_is_no_domain_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        dns.labels_of(name)


def test_a_final_dot_and_capitals_make_no_difference() -> None:
    assert dns.labels_of("Pods.Crib.") == dns.labels_of("pods.crib") == (b"pods", b"crib")
