"""Entries of a log, made of what a container wrote: joined again they are what it wrote."""

from __future__ import annotations

import random
from typing import Any

import pytest

from crib.wire.crilog import MAX_PART, LineJoiner, encode_output, encode_time, parse_line, parse_time

AT = 1_475_713_029_069_794_202
HEAD = b"2016-10-06T00:17:09.069794202Z stdout "


def test_a_time_is_written_as_it_is_read() -> None:
    assert encode_time(AT) == b"2016-10-06T00:17:09.069794202Z"
    assert parse_time(encode_time(AT)) == AT


@pytest.mark.parametrize(
    ("written", "entries"),
    [
        (b"", b""),
        (b"one\n", HEAD + b"F one\n"),
        (b"\n", HEAD + b"F \n"),
        (b"one\n\ntwo\n", HEAD + b"F one\n" + HEAD + b"F \n" + HEAD + b"F two\n"),
        (b"one\npart", HEAD + b"F one\n" + HEAD + b"P part\n"),
        (b"a\rb\0c\n", HEAD + b"F a\rb\0c\n"),
    ],
)
def test_a_line_is_one_entry_and_what_has_no_newline_a_part(written: bytes, entries: bytes) -> None:
    assert encode_output(written, "stdout", AT) == entries


def test_a_long_line_is_cut_into_parts_of_which_none_is_too_long() -> None:
    for size in (MAX_PART - 1, MAX_PART, MAX_PART + 1, 3 * MAX_PART):
        entries = encode_output(b"x" * size + b"\nshort\n", "stderr", AT).split(b"\n")[:-1]
        lines = [parse_line(entry) for entry in entries]
        assert max(len(line.content) for line in lines) <= MAX_PART
        joined = [line.content for line in LineJoiner().receive(b"\n".join(entries) + b"\n")]
        assert joined == [b"x" * size, b"short"]


def test_output_that_is_read_in_any_pieces_is_joined_to_what_was_written() -> None:
    chance = random.Random(7)
    for _round in range(50):
        lines = [b"y" * chance.choice((0, 1, 40, 5000, 20_000)) for _ in range(chance.randrange(1, 20))]
        written = b"\n".join(lines) + b"\n"
        joiner = LineJoiner()
        found: list[Any] = []
        while written:
            size = chance.randrange(1, 30_000)
            found += joiner.receive(encode_output(written[:size], "stdout", AT))
            written = written[size:]
        assert [line.content for line in found] == lines
