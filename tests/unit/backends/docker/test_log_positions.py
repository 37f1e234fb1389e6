"""How far an output has been copied: what the next daemon makes of it, wherever the last one was killed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.docker.log_positions import (
    MARGIN,
    LogBatch,
    LogPosition,
    Resumption,
    read_position,
)
from crib.wire.crilog import encode_output
from crib.wire.docker_streams import LogMessage

SECOND = 1_000_000_000


def line(at: int, stream: str = "stdout", text: str = "x") -> LogMessage:
    return LogMessage(at, stream, f"{text}\n".encode())


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "0.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def content(log: int) -> bytes:
    return os.pread(log, 1 << 20, 0)


def test_a_position_asks_for_all_until_something_is_there() -> None:
    assert LogPosition().query == "0"
    assert LogPosition().after([line(5 * SECOND)]).since == 4 * SECOND
    both = LogPosition().after([line(9 * SECOND), line(9 * SECOND - 5, "stderr")])
    assert both.query == "8.999999995"
    old = LogPosition().after([line(SECOND, "stderr"), line(90 * SECOND)])
    assert old.since == 90 * SECOND - MARGIN


def test_what_is_in_the_log_is_left_out_and_no_other() -> None:
    written = [line(1), line(2, text="a"), line(2, text="b"), line(3, "stderr")]
    rest = [line(2, text="c"), line(1, "stderr"), line(4, "stderr"), line(3), line(3)]
    resumption = Resumption(LogPosition().after(written))
    again = [*written[1:], *rest]
    assert [one for one in again if resumption.is_new(one)] == [rest[0], *rest[2:]]


def test_a_clock_that_is_set_back_costs_nothing_that_is_followed() -> None:
    resumption = Resumption(LogPosition().after([line(10)]))
    assert [resumption.is_new(one) for one in (line(10), line(11), line(5), line(6))] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("messages", [[line(1), line(1), line(2, "stderr")], [line(7, text="z" * 9000)]])
def test_wherever_a_write_was_cut_off_nothing_is_missing_or_there_twice(
    log: int, tmp_path: Path, messages: list[LogMessage]
) -> None:
    path = str(tmp_path / "position")
    before = LogPosition()
    first = LogBatch(path, before, (line(0, text="first"),))
    first.put_into(log)
    begun = content(log)
    batch = LogBatch(path, first.after, tuple(messages))
    batch.put_into(log)
    whole = content(log)
    for cut in (*range(len(begun), len(whole), max(1, len(whole) // 50)), len(whole)):
        os.ftruncate(log, 0)
        os.write(log, whole[:cut])
        found = read_position(path, log)
        resumption = Resumption(found)
        fresh = tuple(one for one in (line(0, text="first"), *messages) if resumption.is_new(one))
        if fresh:
            LogBatch(path, found, fresh).put_into(log)
        assert content(log) == whole, cut
        batch = LogBatch(path, first.after, tuple(messages))
        os.ftruncate(log, len(begun))
        batch.put_into(log)


def test_a_log_that_was_set_aside_counts_as_written(log: int, tmp_path: Path) -> None:
    path = str(tmp_path / "position")
    batch = LogBatch(path, LogPosition(), (line(3),))
    batch.put_into(log)
    other = os.open(tmp_path / "1.log", os.O_RDWR | os.O_CREAT)
    assert read_position(path, other) == batch.after
    os.close(other)


def test_a_position_that_is_torn_or_missing_asks_for_all(log: int, tmp_path: Path) -> None:
    path = tmp_path / "position"
    assert read_position(str(path), log) == LogPosition()
    for text in ("", "{", '{"inode": 1}', '{"inode":1,"size":"x","length":1,"before":{},"after":{}}', "[]"):
        path.write_text(text)
        assert read_position(str(path), log) == LogPosition()


def test_a_full_disk_leaves_whole_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path / "0.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    sizes = itertools.chain([30, 20], itertools.repeat(0))
    real = os.write

    def write(target: int, data: memoryview) -> int:
        if target != fd:
            return real(target, data)
        size = next(sizes)
        if not size:
            raise OSError(28, "No space left on device")
        return real(target, data[:size])

    batch = LogBatch(str(tmp_path / "position"), LogPosition(), (line(1), line(2)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OSError, match="space"):
            batch.put_into(fd)
    assert content(fd) == encode_output(b"x\n", "stdout", 1)
    os.close(fd)
