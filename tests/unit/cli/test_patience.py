"""What is told while a command waits: when, in which words, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import pytest

from crib.cli import patience, progress
from crib.cli.output import tell
from crib.cli.patience import Board, WaitTeller
from crib.cli.session import say
from crib.cli.status_line import STATUS_LINE
from crib.client.images import Pulled
from crib.stubs.node.v1.node_pb2 import LayerProgress, PullProgress

BOUND = 60.0
"""Seconds."""


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._is_terminal = terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    return [100.0]


def board(now: list[float]) -> Board:
    return Board(lambda: now[0])


def test_on_a_terminal_one_line_is_written_again_and_gone_at_the_end(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr("sys.stderr", screen)
    shown = board(now)
    wait = shown.add("stopping default/web", 30)
    shown.draw()
    assert screen.getvalue() == ""  # what takes less than a second is not talked about
    for now[0] in (101.0, 112.0):
        shown.draw()
    shown.remove(wait)
    assert screen.getvalue() == (
        "\rstopping default/web, 1 of 30 s\x1b[K\rstopping default/web, 12 of 30 s\x1b[K\r\x1b[K"
    )


def test_no_line_is_wider_than_the_terminal_and_none_drives_it(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "20")
    shown = board(now)
    wait = shown.add("waiting for\x1b[31m a long name of something", None)
    now[0] += 3
    shown.draw()
    assert screen.getvalue() == "\rwaiting for?[31m a…\x1b[K"
    shown.remove(wait)


@pytest.mark.parametrize("variable", ["pipe", "dumb"])
def test_elsewhere_there_is_a_line_every_ten_seconds(
    variable: str, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(terminal=variable == "dumb")
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    shown = board(now)
    wait = shown.add("waiting for init container db", None)
    for second in range(26):
        now[0] = 100.0 + second
        shown.draw()
    shown.remove(wait)
    assert screen.getvalue() == "waiting for init container db, 10 s\nwaiting for init container db, 20 s\n"


def test_of_several_the_longest_is_told(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr("sys.stderr", screen)
    shown = board(now)
    waits = [shown.add(f"stopping {name}", 30) for name in ("a", "b", "c")]
    now[0] += 5
    shown.draw()
    shown.remove(waits[0])
    shown.remove(waits[1])
    shown.draw()
    shown.remove(waits[2])
    assert screen.getvalue().replace("\x1b[K", "").split("\r") == [
        "",
        "stopping a, 5 of 30 s (and 2 more)",
        "",
        "stopping c, 5 of 30 s",
        "",
    ]


def test_a_line_that_stays_takes_the_place_of_the_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for write in (say, tell):
        screen = Screen(terminal=True)
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setattr("sys.stdout", screen)
        STATUS_LINE.show("stopping a")
        write("stopped b")
        assert screen.getvalue() == "\rstopping a\x1b[K\r\x1b[Kstopped b\n"
        write("stopped c")
        assert screen.getvalue().endswith("stopped b\nstopped c\n")


class Clock:
    """Far in the future at each look, so that a wait is long at once."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        self._seconds += 10.0
        return self._seconds


async def test_a_wait_is_told_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = asyncio.Event()

    class Seen(Screen):
        def write(self, text: str) -> int:
            told.set()
            return super().write(text)

    screen = Seen(terminal=False)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(patience, "TICK", 0.001)
    monkeypatch.setattr(patience, "_BOARD", Board(Clock()))
    async with asyncio.timeout(BOUND), patience.told("stopping web", 30):
        await told.wait()
    assert screen.getvalue().startswith("stopping web, ")
    told.clear()
    waiting = WaitTeller()
    waiting.now_for("waiting for init container db")
    async with asyncio.timeout(BOUND):
        await told.wait()
    waiting.now_for("")
    waiting.now_for("")
    assert "waiting for init container db, " in screen.getvalue()
    assert patience._BOARD._waits == []


async def test_an_interrupted_pull_says_what_the_next_one_need_not_fetch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun = asyncio.Event()

    async def hangs() -> AsyncIterator[PullProgress | Pulled]:
        layers = [
            LayerProgress(digest="sha256:ab", done_bytes=5 << 20, total_bytes=10 << 20, stage="downloading"),
            LayerProgress(digest="sha256:cd", total_bytes=1 << 20, stage="done"),
            LayerProgress(digest="sha256:ef", total_bytes=9 << 20, stage="present"),
        ]
        yield PullProgress(stage="fetching", layers=layers)
        begun.set()
        await asyncio.Event().wait()

    pulling = asyncio.ensure_future(progress._show("reg.example/a:1", hangs()))
    await begun.wait()
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "interrupted: reg.example/a:1: the next pull goes on from 6.0 MiB of 11.0 MiB"
