"""`crib top` on a terminal: keys, sizes, failures of the runtime, and how it leaves."""

from __future__ import annotations

import asyncio
import io
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from crib.cli.session import CliSession
from crib.cli.usage.keys import View
from crib.cli.usage.rows import Meter, Shown
from crib.cli.usage.screen import Picture, Screen
from tests.unit.cli.stream_pod import terminal
from tests.unit.client.fake_usage import SECOND, UsageWorld, add_web, serve_usage, web_stats
from tests.unit.streaming.lab import BOUND

LEFT = b"\x1b[?1049l"
"""The screen from before is shown again (xterm, DECSET 1049)."""


@pytest.fixture
def world() -> UsageWorld:
    world = UsageWorld(pod_stats=[web_stats(SECOND, 2, 0)])
    add_web(world)
    return world


@pytest.fixture
async def session(world: UsageWorld, tmp_path: Path) -> AsyncIterator[CliSession]:
    server = await serve_usage(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


@pytest.fixture(autouse=True)
def any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


async def test_keys_work_at_once_and_q_gives_the_terminal_back(session: CliSession) -> None:
    with terminal(session, "top", "--interval", "60") as person:
        await person.until_shown(b"server")
        person.type(b"/ser")
        await person.until_shown(b"filter: ser")
        person.type(b"\r?")
        await person.until_shown(b"reverse the order")
        person.type(b"\x1a xq")  # Ctrl-Z does nothing
        assert await person.ended() == 0
        await person.until_shown(LEFT)
        assert person.is_as_before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
async def test_a_signal_gives_the_terminal_back_too(
    session: CliSession, number: signal.Signals, code: int
) -> None:
    with terminal(session, "top", "--interval", "60") as person:
        await person.until_shown(b"server")
        person.program.send_signal(number)
        assert await person.ended() == code
        await person.until_shown(LEFT)
        assert person.is_as_before


def title(width: int) -> bytes:
    """The first line of a frame."""
    text = "fake 1.0 every 60 s"
    return f"\x1b[H\x1b[2m{text}\x1b[0m{' ' * (width - len(text))}\r\n".encode()


async def test_another_size_is_drawn_at_once(session: CliSession) -> None:
    with terminal(session, "top", "--interval", "60") as person:
        await person.until_shown(title(101))
        await person.until_shown(b"SWAP")
        person.resize(60, 20)
        await person.until_shown(title(60))
        person.shown = person.shown.partition(title(60))[2]
        await person.until_shown(b"q quit")
        assert b"MEMORY" in person.shown
        assert b"SWAP" not in person.shown


async def test_a_runtime_that_fails_is_told_until_it_answers_again(
    session: CliSession, world: UsageWorld
) -> None:
    with terminal(session, "top", "--interval", "0.5") as person:
        await person.until_shown(b"server")
        world.refusal = grpc.StatusCode.INTERNAL
        await person.until_shown(b"the disk does not answer")
        assert b"server" in person.shown
        world.refusal, person.shown = None, b""
        world.later = {"ListPodSandboxStats": [web_stats(2 * SECOND, 2.25, 0)]}
        await person.until_shown(b"250m")


async def test_what_is_no_terminal_gets_one_table(
    session: CliSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with terminal(session, "top", "--interval", "0.5") as person:
        assert await person.ended() == 0
        await person.until_shown(b"server")
        assert b"\x1b" not in person.shown


async def test_a_fault_of_its_own_ends_it_with_the_screen_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        async def read(self) -> None:
            raise ZeroDivisionError

    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=80, height=24)
    with open("/dev/null", encoding="ascii") as nothing:  # noqa: ASYNC230  it never blocks
        monkeypatch.setattr("sys.stdin", nothing)
        made = Screen(Faulty(), Picture("fake"), Meter(), View(Shown(), 0.0))  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(made.run(console), BOUND)
    assert LEFT.decode() in drawn.getvalue()
