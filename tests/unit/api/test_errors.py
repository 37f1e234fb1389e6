"""Codes and texts of failures."""

from __future__ import annotations

import pytest

from crib.api.errors import CODES, MAX_DETAILS, shorten, status_of
from crib.model import errors
from crib.model.errors import CribError, NotFound
from crib.rpc.codes import Code


def test_every_error_of_the_tree_has_a_code_of_its_own() -> None:
    assert set(CODES) == set(CribError.__subclasses__())
    assert len(set(CODES.values())) == len(CODES)


def test_a_subclass_has_the_code_of_its_parent() -> None:
    class Missing(NotFound):
        pass

    assert status_of(Missing("x")) == (Code.NOT_FOUND, "x")
    assert status_of(CribError("x")) == (Code.INTERNAL, "x")


def test_the_words_that_kubelets_look_for_come_first() -> None:
    for reason in (errors.REGISTRY_UNAVAILABLE, errors.SIGNATURE_VALIDATION_FAILED):
        code, text = status_of(errors.Unavailable("no route", reason=reason), "PullImage")
        assert code == Code.UNKNOWN
        assert text == f"{reason}: no route"


def test_the_code_that_kubelets_want_with_those_words_is_for_pulls_alone() -> None:
    refused = errors.WrongState("rejected", reason=errors.SIGNATURE_VALIDATION_FAILED)
    for method in ("CreateContainer", "ImportImage", ""):
        expected = (Code.FAILED_PRECONDITION, "SignatureValidationFailed: rejected")
        assert status_of(refused, method) == expected


@pytest.mark.parametrize("character", ["a", "%", "é", "\n", "😀"])
@pytest.mark.parametrize("count", [0, 10, 1999, 2001, 6001, 100_000])
def test_a_text_fits_into_a_header_and_keeps_both_ends(character: str, count: int) -> None:
    text = f"begin{character * count}end"
    short = shorten(text)
    encoded = sum(1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode()) for c in short)
    assert encoded <= MAX_DETAILS
    assert short == text or "(cut)" in short
    assert (short[:5], short[-3:]) == ("begin", "end")


def test_what_is_no_text_is_made_one() -> None:
    assert shorten("file \udcff") == "file ?"
