"""nftables without a kernel: names, answers and errors."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from crib.host import nftables
from crib.host.kept_descriptors import FD_SETSIZE


@pytest.mark.parametrize("name", ["", "1a", "a b", "a;b", "a}", "a" * 32, "crib-x", 'a"'])
def test_a_table_name_that_could_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="table name"):
        nftables.check_table_name(name)


def test_a_plain_table_name_is_taken() -> None:
    assert nftables.check_table_name("crib_1a2b") == "crib_1a2b"


def test_without_a_low_descriptor_there_is_an_error_and_the_process_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nftables, "_load", lambda: None)
    monkeypatch.setattr(nftables, "lowest_free", lambda: FD_SETSIZE)
    with pytest.raises(nftables.NftablesError, match="descriptor 1024") as caught:
        nftables.Nftables()
    assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize(
    ("side", "fields"),
    [
        ("tcp", ("tcp",)),
        ({"concat": [6, 8080]}, ("6", "8080")),
        ({"elem": {"val": {"concat": ["10.0.0.1", 80]}, "comment": "x"}}, ("10.0.0.1", "80")),
    ],
)
def test_the_fields_of_an_element_are_found_in_each_of_its_forms(side: Any, fields: tuple[str, ...]) -> None:
    assert nftables._fields(side) == fields


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("Error: Could not process rule: No such file or directory\ndelete …", errno.ENOENT),
        ("Error: Could not process rule: File exists", errno.EEXIST),
        ("Error: syntax error, unexpected }", errno.EINVAL),
        ("", errno.EINVAL),
    ],
)
def test_a_refusal_carries_the_errno_and_the_first_line(message: str, number: int) -> None:
    error = nftables._refusal(message, "crib_test", "install rules")
    assert error.errno == number
    assert error.filename == "crib_test"
    assert "install rules" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("output", [b"not json", b"[]", b'{"nftables": 1}'])
def test_output_of_another_shape_is_refused(output: bytes) -> None:
    with pytest.raises(nftables.NftablesError):
        nftables._objects(output, "crib_test", "list map")


def test_no_output_is_no_objects() -> None:
    assert nftables._objects(b"", "crib_test", "add element") == []


def test_the_contents_of_a_table_are_its_rules_sets_and_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [
        {"metainfo": {}},
        {"chain": {"name": "c"}},
        {"map": {"name": "full", "elem": [[{"concat": ["tcp", 80]}, {"concat": ["10.0.0.2", 81]}]]}},
        {"map": {"name": "empty"}},
        {"set": {"name": "s", "elem": [{"concat": ["crib1", "10.0.0.2"]}]}},
        {"rule": {"chain": "c", "handle": 7, "expr": [{"accept": None}]}},
        {"rule": {"chain": "d", "handle": 8, "expr": []}},
    ]
    context = object.__new__(nftables.Nftables)
    monkeypatch.setattr(nftables.Nftables, "run", lambda *_, **__: objects)
    found = context.contents("t")
    assert found is not None
    assert found.rules == ('["c", [{"accept": null}]]', '["d", []]')
    assert found.sets == {"s": frozenset([("crib1", "10.0.0.2")])}
    assert found.maps == {"full": [(("tcp", "80"), ("10.0.0.2", "81"))], "empty": []}


@pytest.mark.parametrize(("number", "raises"), [(errno.ENOENT, False), (errno.EPERM, True)])
def test_a_table_that_is_not_there_has_no_contents_and_another_failure_is_one(
    monkeypatch: pytest.MonkeyPatch, number: int, raises: bool
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise nftables.NftablesError(number, "list table", "t")

    context = object.__new__(nftables.Nftables)
    monkeypatch.setattr(nftables.Nftables, "run", refuse)
    if raises:
        with pytest.raises(nftables.NftablesError):
            context.contents("t")
    else:
        assert context.contents("t") is None
