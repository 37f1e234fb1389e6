"""The address book: round robin, on file, never twice; and what a pod may ask for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_interface

import pytest

from crib.backends.network.bridge.addresses import (
    AddressBook,
    Holding,
    Wish,
    interfaces_of,
    mac_of,
    parse_subnet,
    parse_subnet6,
    wish_of,
)
from crib.model.errors import Exhausted, InvalidRequest
from crib.model.ids import SandboxId

SMALL = IPv4Network("10.0.0.0/29")
SMALL6 = IPv6Network("fd00::/125")


@pytest.fixture(params=["deferred", "autocommit"])
def connection(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None if request.param == "autocommit" else "DEFERRED")
    yield made
    made.close()


def pod(number: int) -> SandboxId:
    return SandboxId(f"{number:064x}")


def texts(holding: Holding | None) -> list[str]:
    return [] if holding is None else [str(address) for address in holding.addresses]


def reserved(book: AddressBook, number: int, *wanted: str) -> list[str]:
    wish = Wish(tuple(map(ip_interface, wanted)))
    return texts(book.reserve(pod(number), f"default/pod{number}", wish))


def test_the_first_address_is_the_gateways_and_pods_get_the_next_ones(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL)
    assert [str(gateway) for gateway in book.gateways] == ["10.0.0.1"]
    assert [reserved(book, n) for n in range(3)] == [["10.0.0.2"], ["10.0.0.3"], ["10.0.0.4"]]


def test_with_an_ipv6_range_a_pod_gets_one_of_each_with_ipv4_first(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL, SMALL6)
    assert [str(gateway) for gateway in book.gateways] == ["10.0.0.1", "fd00::1"]
    assert reserved(book, 1) == ["10.0.0.2", "fd00::2"]
    assert reserved(book, 2) == ["10.0.0.3", "fd00::3"]


def test_a_pod_that_asks_again_gets_the_address_that_it_has(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL)
    assert reserved(book, 1) == reserved(book, 1) == texts(book.holding(pod(1)))


def test_addresses_that_were_given_back_come_last_even_after_a_restart(
    connection: sqlite3.Connection,
) -> None:
    book = AddressBook(connection, SMALL, SMALL6)
    reserved(book, 1)
    assert texts(book.release(pod(1))) == ["10.0.0.2", "fd00::2"]
    book = AddressBook(connection, SMALL, SMALL6)
    found = [reserved(book, n) for n in range(2, 7)]
    assert (
        [first[-1] for first, _ in found] == [second[-1] for _, second in found] == ["3", "4", "5", "6", "2"]
    )


def test_reservations_are_there_after_a_restart_with_names_and_macs(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL, SMALL6)
    made = book.reserve(pod(1), "shop/db", Wish(mac="02:00:00:00:00:01"))
    again = AddressBook(connection, SMALL, SMALL6)
    assert dict(again.all()) == {pod(1): made}
    assert again.named("shop/db") == made.addresses
    assert again.named("shop/other") == ()
    assert again.owner(made.addresses[1]) == "shop/db"
    assert again.describe(made.addresses[0]) == f"pod shop/db ({pod(1)})"
    assert "10.9.9.9" in again.describe(IPv4Address("10.9.9.9"))


def test_a_full_range_is_exhausted_until_one_is_given_back(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL)
    for number in range(5):
        reserved(book, number)
    with pytest.raises(Exhausted, match=r"10\.0\.0\.0/29: all 5"):
        reserved(book, 9)
    book.release(pod(3))
    assert reserved(book, 9) == ["10.0.0.5"]


def test_a_full_ipv6_range_takes_no_ipv4_address_either(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, IPv4Network("10.0.0.0/24"), SMALL6)
    for number in range(5):
        reserved(book, number)
    with pytest.raises(Exhausted, match="fd00::/125"):
        reserved(book, 9)
    assert len(book.held()) == 10


def test_releasing_what_is_not_held_gives_none(connection: sqlite3.Connection) -> None:
    assert AddressBook(connection, SMALL).release(pod(1)) is None


def test_other_ranges_are_used_for_new_pods_only(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL, SMALL6)
    reserved(book, 1)
    book.change_ranges([IPv6Network("fd01::/64"), IPv4Network("10.1.0.0/24")])
    assert reserved(book, 1) == ["10.0.0.2", "fd00::2"]
    assert reserved(book, 2) == ["10.1.0.2", "fd01::2"]


def test_addresses_of_a_node_that_knew_ipv4_only_are_still_held(connection: sqlite3.Connection) -> None:
    for statement in (
        "CREATE TABLE network_address (address INTEGER PRIMARY KEY, pod TEXT NOT NULL UNIQUE)",
        "CREATE TABLE network_cursor (only_row INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    ):
        connection.execute(statement)
    for number in (2, 4):
        address = int(IPv4Address(f"10.0.0.{number}"))
        connection.execute("INSERT INTO network_address VALUES (?, ?)", (address, pod(number)))
    connection.execute("INSERT INTO network_cursor VALUES (1, ?)", (int(IPv4Address("10.0.0.4")),))
    connection.commit()
    for _ in range(2):
        book = AddressBook(connection, SMALL, SMALL6)
        assert {one: texts(held) for one, held in book.all().items()} == {
            pod(2): ["10.0.0.2"],
            pod(4): ["10.0.0.4"],
        }
    assert book.describe(IPv4Address("10.0.0.2")) == f"pod {pod(2)}"
    assert reserved(book, 5) == ["10.0.0.5", "fd00::2"]
    assert texts(book.release(pod(4))) == ["10.0.0.4"]
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert not {("network_address",), ("network_cursor",)} & set(tables)


def test_a_wish_is_met_and_moves_nobody_elses_turn(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL, SMALL6)
    assert reserved(book, 1, "10.0.0.6/29") == ["10.0.0.6", "fd00::2"]
    assert reserved(book, 2, "fd00::5", "10.0.0.3") == ["10.0.0.3", "fd00::5"]
    assert reserved(book, 3) == ["10.0.0.2", "fd00::3"]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("10.1.0.2", r"not in the bridge's ranges: 10\.0\.0\.0/29"),
        ("fd00::2", "not in the bridge's ranges"),
        ("10.0.0.4/24", "not of the prefix length"),
        ("10.0.0.0", "never a pod's"),
        ("10.0.0.1", "never a pod's"),
        ("10.0.0.7", "never a pod's"),
        ("10.0.0.2", r"held by pod default/pod1 \("),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_naming_the_annotation(
    connection: sqlite3.Connection, wanted: str, reason: str
) -> None:
    book = AddressBook(connection, SMALL)
    reserved(book, 1)
    with pytest.raises(InvalidRequest, match=rf"annotations\[io\.crib\.network\.ips\]: .*{reason}"):
        reserved(book, 2, wanted)
    assert book.holding(pod(2)) is None


@pytest.mark.parametrize("mac", ["02:00:00:00:00:01", "c2:1b:0a:00:00:02"])
def test_a_mac_that_another_pod_has_or_could_get_is_refused(connection: sqlite3.Connection, mac: str) -> None:
    book = AddressBook(connection, SMALL)
    book.reserve(pod(1), "default/one", Wish(mac="02:00:00:00:00:01"))
    with pytest.raises(InvalidRequest, match=r"annotations\[io\.crib\.network\.mac\]"):
        book.reserve(pod(2), "default/two", Wish(mac=mac))


def test_wishes_of_annotations_are_one_address_of_a_family() -> None:
    found = wish_of({"ips": ["10.0.0.5", "fd00::5/64"], "mac": "02:00:00:00:00:01"})
    assert found == Wish((ip_interface("10.0.0.5"), ip_interface("fd00::5/64")), "02:00:00:00:00:01")
    assert wish_of({}) == Wish()
    with pytest.raises(InvalidRequest, match="more than one"):
        wish_of({"ips": ["10.0.0.5", "10.0.0.6"]})


def test_a_pods_addresses_get_the_prefix_lengths_of_the_ranges_that_they_are_in() -> None:
    addresses = [ip_address("10.0.0.2"), ip_address("fd00::2"), ip_address("10.9.0.2")]
    assert [str(one) for one in interfaces_of(addresses, [SMALL, SMALL6])] == ["10.0.0.2/29", "fd00::2/125"]


def test_a_mac_is_derived_from_the_address() -> None:
    assert mac_of(ip_address("10.0.0.255")) == "c2:1b:0a:00:00:ff"


@pytest.mark.parametrize("text", ["", "10.0.0.1/24", "10.0.0.0/30", "10.0.0.0/7", "fd00::/64", "10.0.0.0/x"])
def test_a_subnet_that_cannot_serve_is_refused_naming_it(text: str) -> None:
    with pytest.raises(ValueError, match="subnet"):
        parse_subnet(text)


@pytest.mark.parametrize("text", ["", "fd00::1/64", "fd00::/63", "fd00::/121", "10.0.0.0/24", "fd00::/x"])
def test_an_ipv6_subnet_that_cannot_serve_is_refused_naming_it(text: str) -> None:
    with pytest.raises(ValueError, match="subnet"):
        parse_subnet6(text)
