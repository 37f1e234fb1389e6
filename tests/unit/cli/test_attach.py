"""`crib attach`: joining, leaving by keys, and who knows of a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.cli import execute, options
from crib.cli.session import CommandError
from crib.cli.terminal import DetachKeys
from tests.unit.cli.stream_pod import crib, serving, terminal
from tests.unit.streaming.lab import Command, cat, forever, until


async def test_input_and_output_go_both_ways_until_the_container_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as (session, _, lab):
        lab.script = cat
        done = await crib(session, "attach", "-i", "web", "-c", "box", stdin=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


async def test_without_input_only_the_output_is_joined(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def speak(command: Command) -> int:
        await command.say(b"out")
        return 0

    async with serving(tmp_path) as (session, _, lab):
        lab.script = speak
        assert await execute.attach(session, options.AttachOptions("web")) == 0
        assert lab.commands[0].stdin is None
    assert capfdbinary.readouterr().out == b"out"


@pytest.mark.parametrize(
    ("info", "words", "tty"),
    [
        ('{"record": {"config": {"tty": true}}}', (), True),
        ('{"runtimeSpec": {"process": {"terminal": true}}}', (), True),
        ('{"runtimeSpec": {"process": {}}}', (), False),
        ('{"runtimeSpec": 3}', (), False),
        ("no JSON", (), False),
        ("[]", ("--tty",), True),
        ('{"record": {"config": {"tty": true}}}', ("--no-tty",), False),
    ],
)
async def test_the_runtime_is_asked_for_the_terminal_unless_it_is_said(
    tmp_path: Path, info: str, words: tuple[str, ...], *, tty: bool
) -> None:
    async with serving(tmp_path, tty=tty) as (session, world, lab):
        world.info = info
        done = await crib(session, "attach", *words, "web")
        assert (done.returncode, done.stderr) == (0, b"")
        assert lab.commands[0].wanted.tty is tty


async def test_keys_leave_the_container_running_and_give_the_terminal_back(tmp_path: Path) -> None:
    async with serving(tmp_path, tty=True) as (session, world, lab):
        world.info = '{"record": {"config": {"tty": true}}}'
        lab.script = cat
        with terminal(session, "attach", "-i", "web") as screen:
            await until(lambda: screen.is_raw)
            screen.type(b"a\x10b")
            await screen.until_shown(b"a\x10b")
            screen.type(b"\x10")
            screen.type(b"\x11")
            await screen.until_shown(b"detached\r\n")
            assert await screen.ended() == 0
            assert screen.is_as_before
        await until(lab.commands[0].closed.is_set)


async def test_keys_of_ones_own_may_be_chosen(tmp_path: Path) -> None:
    async with serving(tmp_path, tty=True) as (session, _, lab):
        lab.script = forever
        with terminal(session, "attach", "-it", "--detach-keys", "x,ctrl-]", "web") as screen:
            await until(lambda: screen.is_raw)
            screen.type(b"\x10\x11x\x1d")
            assert await screen.ended() == 0


@pytest.mark.parametrize(
    ("typed", "passed", "found"),
    [
        ([b"ab"], b"ab", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x10", b"x", b"\x11"], b"\x10x\x11", False),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_keys_are_found_wherever_they_are_cut(typed: list[bytes], passed: bytes, *, found: bool) -> None:
    keys = DetachKeys("ctrl-p,ctrl-q")
    results = [keys.receive(piece) for piece in typed]
    assert b"".join(data for data, _ in results) == passed
    assert results[-1][1] is found


def test_no_keys_find_nothing() -> None:
    assert DetachKeys("").receive(b"\x10\x11") == (b"\x10\x11", False)


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "up", "ctrl-p,", "ü"])
def test_what_are_no_keys_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is neither one character nor ctrl-"):
        DetachKeys(text)
