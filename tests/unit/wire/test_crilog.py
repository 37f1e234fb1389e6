from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.crilog import LineJoiner, parse_line, parse_time

LOG = (
    b"2016-10-06T00:17:09.669794202Z stdout F The content\n"
    b"2016-10-06T00:17:10.1Z stdout P first \n"
    b"2016-10-06T00:17:10.2Z stderr F other\n"
    b"not a line\n"
    b"2016-10-06T00:17:11.000000001+02:00 stdout F second\n"
    b"2016-10-06T00:17:12Z stdout F \n"
)


def test_line_is_parsed() -> None:
    line = parse_line(LOG.split(b"\n")[0])
    assert (line.stream, line.partial, line.content) == ("stdout", False, b"The content")
    assert line.at == 1475713029_669794202


def test_times_with_a_zone_are_shifted() -> None:
    assert parse_time(b"1970-01-01T02:00:00.5+02:00") == 500_000_000
    assert parse_time(b"1969-12-31T23:00:01-01:00") == 1_000_000_000


@pytest.mark.parametrize("line", [b"", b"x stdout F y", b"2016-10-06T00:17:09Z stdin F y", b"2016 stdout F"])
def test_other_lines_are_errors(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_line(line)


def test_parts_are_joined_by_stream() -> None:
    lines = [(line.stream, line.content) for line in LineJoiner().receive(LOG)]
    assert lines == [
        ("stdout", b"The content"),
        ("stderr", b"other"),
        ("stdout", b"first second"),
        ("stdout", b""),
    ]


def test_what_never_ended_comes_at_the_end() -> None:
    joiner = LineJoiner()
    assert list(joiner.receive(b"2016-10-06T00:17:10.1Z stdout P half\n")) == []
    (line,) = joiner.finish()
    assert (line.partial, line.content) == (True, b"half")


@given(st.lists(st.integers(0, len(LOG)), max_size=6))
def test_cuts_at_any_place_make_no_difference(cuts: list[int]) -> None:
    joiner = LineJoiner()
    places = [0, *sorted(cuts), len(LOG)]
    pieces = [LOG[start:end] for start, end in pairwise(places)]
    lines = [line for piece in pieces for line in joiner.receive(piece)]
    assert lines == list(LineJoiner().receive(LOG))
