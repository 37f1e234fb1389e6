"""Reading log files: whole lines, tails, rotation."""

# ruff: noqa: ASYNC110  # bounded

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.client import logs
from crib.client.errors import NotFound
from crib.wire.crilog import LogLine


def entry(number: int, text: str, tag: str = "F", stream: str = "stdout") -> str:
    return f"2026-01-02T03:04:05.{number:09d}Z {stream} {tag} {text}\n"


def texts(lines: list[LogLine]) -> list[str]:
    return [line.content.decode() for line in lines]


def test_partial_lines_are_joined(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text(entry(1, "ab", "P") + entry(2, "err", stream="stderr") + entry(3, "cd"))
    assert texts(list(logs.read(str(log)))) == ["err", "abcd"]


def test_the_tail_counts_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text(entry(1, "one") + entry(2, "tw", "P") + entry(3, "o F F") + entry(4, "three"))
    assert texts(list(logs.read(str(log), logs.WantedLines(tail=2)))) == ["two F F", "three"]
    assert texts(list(logs.read(str(log), logs.WantedLines(tail=0)))) == []
    assert texts(list(logs.read(str(log), logs.WantedLines(tail=9)))) == ["one", "two F F", "three"]


def test_lines_from_before_since_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text(entry(1, "one") + entry(2, "two"))
    at = next(iter(logs.read(str(log)))).at
    assert texts(list(logs.read(str(log), logs.WantedLines(since=at + 1)))) == ["two"]


@given(st.lists(st.text(alphabet="aP F", max_size=30), max_size=60), st.integers(0, 70), st.integers(20, 200))
def test_a_tail_is_the_end_of_everything(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], tail: int, chunk: int
) -> None:
    log = tmp_path_factory.mktemp("log") / "0.log"
    log.write_text("".join(entry(i, line) for i, line in enumerate(lines)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "CHUNK", chunk)
        everything = texts(list(logs.read(str(log))))
        assert texts(list(logs.read(str(log), logs.WantedLines(tail=tail)))) == (
            everything[-tail:] if tail else []
        )


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"there is no log file {tmp_path}/none"):
        list(logs.read(f"{tmp_path}/none"))
    with pytest.raises(NotFound, match="made without a log path"):
        list(logs.read(""))


async def test_following_goes_on_over_a_rotation_and_ends_with_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "POLL", 0.001)
    log = tmp_path / "0.log"
    log.write_text(entry(1, "old") + entry(2, "last of the start"))
    seen: list[str] = []
    ended = False

    async def follow() -> None:
        async for line in logs.follow(str(log), logs.WantedLines(tail=1), ended=lambda: ended):
            seen.append(line.content.decode())

    async def until(text: str) -> None:
        while text not in seen:
            await asyncio.sleep(0)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(follow())
        await until("last of the start")
        with log.open("a") as file:
            file.write(entry(3, "more"))
        await until("more")
        log.rename(tmp_path / "0.log.1")
        with (tmp_path / "0.log.1").open("a") as file:
            file.write(entry(4, "late in the old file"))
        log.write_text(entry(5, "new file"))
        await until("new file")
        with log.open("a") as file:
            file.write(entry(6, "unfinished", "P"))
        ended = True
    assert seen == ["last of the start", "more", "late in the old file", "new file", "unfinished"]


def aged(path: Path, text: str, second: int) -> Path:
    """A log file that was last written at that second."""
    path.write_text(text)
    os.utime(path, (second, second))
    return path


def test_a_line_that_a_rotation_cut_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    aged(tmp_path / "0.log.20260102-030405", entry(1, "ab", "P") + entry(2, "err", stream="stderr"), 10)
    aged(tmp_path / "0.log.20260102-030305", entry(0, "no", "P"), 5)
    aged(log, entry(3, "cd") + entry(4, "next"), 20)
    assert texts(list(logs.read(str(log)))) == ["abcd", "next"]
    assert texts(list(logs.read(str(log), logs.WantedLines(tail=1)))) == ["next"]
    assert texts(list(logs.read(str(log), logs.WantedLines(tail=2)))) == ["abcd", "next"]


def test_an_entry_without_its_newline_is_not_merged_with_the_next_file(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    aged(tmp_path / "0.log.1", entry(1, "whole") + entry(2, "torn")[:-1], 10)
    aged(log, entry(3, "next"), 20)
    assert texts(list(logs.read(str(log)))) == ["next"]
    log.write_text(entry(3, "next")[:-1])
    assert texts(list(logs.read(str(log)))) == ["next"]


async def test_a_follower_misses_no_file_however_often_the_log_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rotations between two looks, in the middle of a long line."""
    monkeypatch.setattr(logs, "POLL", 0.001)
    log = aged(tmp_path / "0.log", entry(1, "first"), 1)
    seen: list[str] = []
    ended = False

    async def follow() -> None:
        async for line in logs.follow(str(log), ended=lambda: ended):
            seen.append(line.content.decode())

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(follow())
        while not seen:
            await asyncio.sleep(0)
        for number in range(3):
            with log.open("a") as file:
                file.write(entry(number, f"end {number}") + entry(number, f"part {number} ", "P"))
            os.utime(log, (number + 2, number + 2))
            log.rename(tmp_path / f"0.log.{number}")
            if number < 2:  # the last time, the follower sees that there is no log at this moment
                aged(log, entry(number, "rest"), number + 2)
            await asyncio.sleep(0 if number < 2 else 0.01)
        aged(log, entry(9, "rest"), 9)
        ended = True
    assert seen == ["first", "end 0", "part 0 rest", "end 1", "part 1 rest", "end 2", "part 2 rest"]


async def test_a_log_that_was_emptied_in_place_is_read_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "POLL", 0.001)
    log = tmp_path / "0.log"
    log.write_text(entry(1, "old, and long enough") + entry(2, "half", "P"))
    seen: list[str] = []
    ended = False

    async def follow() -> None:
        async for line in logs.follow(str(log), ended=lambda: ended):
            seen.append(line.content.decode())

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(follow())
        while not seen:
            await asyncio.sleep(0)
        log.write_text(entry(3, "new"))
        while "new" not in seen:
            await asyncio.sleep(0)
        ended = True
    assert seen == ["old, and long enough", "half", "new"]
