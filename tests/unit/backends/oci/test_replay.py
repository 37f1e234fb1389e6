from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crib.backends.oci import replay
from crib.backends.oci.replay import latest_output

STAMP = "2026-01-01T00:00:00.000000000+01:00"


def lines(*entries: tuple[str, str, str]) -> str:
    return "".join(f"{STAMP} {stream} {tag} {text}\n" for stream, tag, text in entries)


@pytest.fixture
def log_of(tmp_path: Path) -> Iterator[Callable[[str], tuple[int, int]]]:
    """Opens a log of that content; descriptor and size."""
    opened: list[int] = []

    def make(text: str) -> tuple[int, int]:
        path = tmp_path / f"{len(opened)}.log"
        path.write_text(text)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1], len(text)

    yield make
    for fd in opened:
        os.close(fd)


def test_the_latest_whole_lines_of_both_streams_are_kept(log_of: Callable[[str], tuple[int, int]]) -> None:
    log, size = log_of(lines(("stdout", "F", "one"), ("stderr", "F", "two"), ("stdout", "F", "three")))
    assert latest_output(log, size, 100, {}) == {"stdout": b"one\nthree\n", "stderr": b"two\n"}
    assert latest_output(log, size, 11, {}) == {"stdout": b"three\n", "stderr": b"two\n"}
    assert latest_output(log, size, 9, {}) == {"stdout": b"three\n"}
    assert latest_output(log, size, 3, {}) == {"stdout": b"ee\n"}
    assert latest_output(log, 0, 100, {}) == {}


def test_parts_are_joined_and_a_prompt_stays_without_a_newline(
    log_of: Callable[[str], tuple[int, int]],
) -> None:
    log, size = log_of(lines(("stdout", "P", "lo"), ("stdout", "F", "ng\r"), ("stdout", "P", "$ ")))
    assert latest_output(log, size, 100, {}) == {"stdout": b"long\r\n$ "}


def test_what_came_by_another_way_is_left_out_stream_by_stream(
    log_of: Callable[[str], tuple[int, int]],
) -> None:
    log, size = log_of(lines(("stdout", "F", "one"), ("stderr", "F", "two"), ("stdout", "F", "three")))
    assert latest_output(log, size, 100, {"stdout": 6, "stderr": 1}) == {"stdout": b"one\n", "stderr": b"two"}
    assert latest_output(log, size, 100, {"stdout": 8}) == {"stdout": b"on", "stderr": b"two\n"}
    assert latest_output(log, size, 100, {"stdout": 1000, "stderr": 1000}) == {}


def test_what_lies_after_the_size_and_what_is_no_entry_is_not_looked_at(
    log_of: Callable[[str], tuple[int, int]],
) -> None:
    text = lines(("stdout", "F", "one")) + "torn"
    log, _size = log_of(text + lines(("stdout", "F", "later")))
    assert latest_output(log, len(text), 100, {}) == {"stdout": b"one\n"}
    log, size = log_of("nonsense\n" + lines(("stdout", "F", "one")))
    assert latest_output(log, size, 100, {}) == {"stdout": b"one\n"}


def test_a_long_log_is_read_from_its_end_within_bounds(
    log_of: Callable[[str], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, size = log_of(lines(*(("stdout", "F", str(number)) for number in range(10_000))))
    found = latest_output(log, size, 20_000, {})["stdout"].decode().splitlines()
    assert found == [str(number) for number in range(10_000 - 4000, 10_000)]
    monkeypatch.setattr(replay, "_FIRST_WINDOW", 100)
    assert latest_output(log, size, 10, {}) == {"stdout": b"9998\n9999\n"}
    monkeypatch.setattr(replay, "REPLAY_LIMIT", 5)
    assert latest_output(log, size, 20_000, {}) == {"stdout": b"9999\n"}
    monkeypatch.setattr(replay, "_WINDOW_LIMIT", 100)
    log, size = log_of(lines(*(("stdout", "F", "") for _ in range(1000))))
    assert latest_output(log, size, 3, {}) == {"stdout": b"\n\n"}
