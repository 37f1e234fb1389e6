"""Quantities as Kubernetes reads them, and what a kubelet makes of them."""

# ruff: noqa: PT017  # both outcomes are right

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.manifest import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("64Mi", 64 << 20),
        ("64M", 64_000_000),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("100n", Fraction(1, 10**7)),
        ("+2Gi", 2 << 30),
        (2, 2),
        (0.5, Fraction(1, 2)),
    ],
)
def test_quantities_are_read_exactly(text: object, value: Fraction) -> None:
    assert quantity.parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "1 Mi",
        "64MB",
        "64mi",
        "1K",
        "0x10",
        "1e",
        "-1",
        "9E19",
        "1e99",
        "٣",
        True,
        None,
        [],
        "1" * 40,
    ],
)
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError):
        quantity.parse_quantity(text)


@given(st.integers(0, 10**15), st.sampled_from(["", "m", "k", "Ki", "M", "Mi", "n", "u"]))
def test_a_number_with_a_suffix_is_the_product(number: int, suffix: str) -> None:
    scale = quantity.parse_quantity(f"1{suffix}")
    try:
        assert quantity.parse_quantity(f"{number}{suffix}") == number * scale
    except ValueError:
        assert number * scale > quantity.MAX_VALUE


@given(st.fractions(0, 10**6))
def test_rounding_never_gives_less_than_was_asked_for(value: Fraction) -> None:
    assert value <= quantity.whole(value) < value + 1
    assert value * 1000 <= quantity.milli(value) < value * 1000 + 1


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    try:
        assert quantity.parse_quantity(text) >= 0
    except ValueError as wrong:
        assert str(wrong)


@given(st.integers(0, 10**9))
def test_cpu_shares_and_quota_stay_in_the_kernels_bounds(milli: int) -> None:
    assert 2 <= quantity.cpu_shares(milli) <= 262_144
    assert quantity.cpu_quota(milli) == 0 if milli == 0 else quantity.cpu_quota(milli) >= 1000


@pytest.mark.parametrize(
    ("milli", "shares", "quota"), [(0, 2, 0), (1, 2, 1000), (100, 102, 10_000), (2500, 2560, 250_000)]
)
def test_cpu_is_reckoned_as_a_kubelet_does(milli: int, shares: int, quota: int) -> None:
    assert (quantity.cpu_shares(milli), quantity.cpu_quota(milli)) == (shares, quota)


@pytest.mark.parametrize(
    ("request_bytes", "guaranteed", "best_effort", "score"),
    [
        (0, True, False, -997),
        (0, False, True, 1000),
        (0, False, False, 999),
        (8 << 30, False, False, 500),
        (16 << 30, False, False, 3),
    ],
)
def test_the_oom_score_follows_the_quality_of_service(
    request_bytes: int, guaranteed: bool, best_effort: bool, score: int
) -> None:
    found = quantity.oom_score_adj(request_bytes, 16 << 30, guaranteed=guaranteed, best_effort=best_effort)
    assert found == score
