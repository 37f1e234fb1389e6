"""Times and rules as `crib log-level` reads and shows them."""

from __future__ import annotations

from datetime import datetime

import pytest

from crib.cli.debug_commands import length_of_rule, shown
from crib.cli.session import CommandError
from crib.stubs.node.v1.node_pb2 import LogRule


@pytest.mark.parametrize(
    ("text", "wanted"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_a_time_is_a_duration_as_everywhere_else(text: str, wanted: int) -> None:
    assert length_of_rule(text) == wanted * 10**9


@pytest.mark.parametrize("text", ["", "10", "m", "-1s", "forever"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="give a time as 90s, 10m or 2h"):
        length_of_rule(text)


@pytest.mark.parametrize("text", ["0s", "24h1s", "99h"])
def test_a_time_that_no_rule_may_hold_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(CommandError, match=f"--for {text}: it is at most 24h"):
        length_of_rule(text)


def test_a_rule_is_shown_with_what_it_is_for_and_its_end() -> None:
    ends = datetime(2026, 11, 30, 14, 2, 11).astimezone()
    at = int(ends.timestamp() * 1e9)
    assert shown(LogRule(level="debug", pod="web", verb="PullImage", ends_at=at)) == (
        "debug of pod web, verb PullImage until 14:02:11"
    )
    assert shown(LogRule(level="error", ends_at=at)) == "error of everything until 14:02:11"
