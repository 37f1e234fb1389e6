"""Times and durations as people type them."""

from __future__ import annotations

import time

import pytest

from crib.cli import times
from crib.cli.session import CommandError

NOW = 1_800_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("2d", 172800.0), ("1.5h", 5400.0), ("250ms", 0.25)],
)
def test_a_duration_is_before_now(text: str, ago: float) -> None:
    assert times.moment(text, "--since", NOW) == NOW - int(ago * 10**9)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:07Z", 7 * 10**9),
        ("1970-01-01T01:00:07+01:00", 7 * 10**9),
        ("1700000000", 1_700_000_000 * 10**9),
        ("1700000000.25", 1_700_000_000_250_000_000),
    ],
)
def test_a_time_is_one_of_rfc_3339_or_seconds_since_the_epoch(text: str, at: int) -> None:
    assert times.moment(text, "--since", NOW) == at


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert times.moment("1970-01-01T02:00:07", "--since", NOW) == 7 * 10**9
        assert times.moment("1970-01-02", "--since", NOW) == 22 * 3600 * 10**9
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_neither_is_wrong_usage_of_that_option() -> None:
    with pytest.raises(CommandError, match="--until 'yesterday' is neither a duration such as 90s") as wrong:
        times.moment("yesterday", "--until", NOW)
    assert wrong.value.exit_code == 2
    with pytest.raises(CommandError, match="--timeout 'soon' is neither a number of seconds"):
        times.seconds("soon", "--timeout")


def test_seconds_are_a_number_or_a_duration() -> None:
    assert (times.seconds("5", "-t"), times.seconds("1.5", "-t"), times.seconds("2m", "-t")) == (5, 1.5, 120)
