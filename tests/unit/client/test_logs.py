"""Reading log files: whole lines, tails, rotation."""

# ruff: noqa: ASYNC110  # bounded

from __future__ import annotations

import asyncio
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
    assert texts(list(logs.read(str(log), logs.Wanted(tail=2)))) == ["two F F", "three"]
    assert texts(list(logs.read(str(log), logs.Wanted(tail=0)))) == []
    assert texts(list(logs.read(str(log), logs.Wanted(tail=9)))) == ["one", "two F F", "three"]


def test_lines_from_before_since_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text(entry(1, "one") + entry(2, "two"))
    at = next(iter(logs.read(str(log)))).at
    assert texts(list(logs.read(str(log), logs.Wanted(since=at + 1)))) == ["two"]


@given(st.lists(st.text(alphabet="aP F", max_size=30), max_size=60), st.integers(0, 70), st.integers(20, 200))
def test_a_tail_is_the_end_of_everything(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], tail: int, chunk: int
) -> None:
    log = tmp_path_factory.mktemp("log") / "0.log"
    log.write_text("".join(entry(i, line) for i, line in enumerate(lines)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "CHUNK", chunk)
        everything = texts(list(logs.read(str(log))))
        assert texts(list(logs.read(str(log), logs.Wanted(tail=tail)))) == (
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
        async for line in logs.follow(str(log), logs.Wanted(tail=1), ended=lambda: ended):
            seen.append(line.content.decode())

    async def until(text: str) -> None:
        while text not in seen:
            await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
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
