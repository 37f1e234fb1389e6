"""The address book: round robin, on file, never twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from crib.backends.network.addresses import AddressBook, parse_subnet
from crib.model.errors import Exhausted
from crib.model.ids import SandboxId

SMALL = IPv4Network("10.0.0.0/29")


@pytest.fixture(params=["deferred", "autocommit"])
def connection(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    level = None if request.param == "autocommit" else ""
    made = sqlite3.connect(":memory:", isolation_level=level)
    yield made
    made.close()


def pod(number: int) -> SandboxId:
    return SandboxId(f"{number:064x}")


def test_the_first_address_is_the_gateways_and_pods_get_the_next_ones(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL)
    assert str(book.gateway) == "10.0.0.1"
    assert [str(book.reserve(pod(n))) for n in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_a_pod_that_asks_again_gets_the_address_that_it_has(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL)
    assert book.reserve(pod(1)) == book.reserve(pod(1)) == book.address_of(pod(1))


def test_an_address_that_was_given_back_comes_last_even_after_a_restart(
    connection: sqlite3.Connection,
) -> None:
    book = AddressBook(connection, SMALL)
    book.reserve(pod(1))
    assert book.release(pod(1)) == IPv4Address("10.0.0.2")
    book = AddressBook(connection, SMALL)
    assert [str(book.reserve(pod(n)))[-1] for n in range(2, 7)] == ["3", "4", "5", "6", "2"]


def test_reservations_are_there_after_a_restart(connection: sqlite3.Connection) -> None:
    AddressBook(connection, SMALL).reserve(pod(1))
    assert AddressBook(connection, SMALL).all() == {pod(1): IPv4Address("10.0.0.2")}


def test_a_full_range_is_exhausted_until_one_is_given_back(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL)
    for number in range(5):
        book.reserve(pod(number))
    with pytest.raises(Exhausted, match=r"10\.0\.0\.0/29: all 5"):
        book.reserve(pod(9))
    book.release(pod(3))
    assert str(book.reserve(pod(9))) == "10.0.0.5"


def test_releasing_what_is_not_held_gives_none(connection: sqlite3.Connection) -> None:
    assert AddressBook(connection, SMALL).release(pod(1)) is None


def test_another_range_is_used_for_new_pods_only(connection: sqlite3.Connection) -> None:
    book = AddressBook(connection, SMALL)
    book.reserve(pod(1))
    book.change_subnet(IPv4Network("10.1.0.0/24"))
    assert str(book.reserve(pod(1))) == "10.0.0.2"
    assert str(book.reserve(pod(2))) == "10.1.0.2"


@pytest.mark.parametrize("text", ["", "10.0.0.1/24", "10.0.0.0/30", "10.0.0.0/7", "fd00::/64", "10.0.0.0/x"])
def test_a_subnet_that_cannot_serve_is_refused_naming_it(text: str) -> None:
    with pytest.raises(ValueError, match="subnet"):
        parse_subnet(text)
