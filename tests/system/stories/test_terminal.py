"""A person at a terminal: `crib exec -it` and `crib attach` in tmux, keys typed and the screen looked at."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import BOUND, TRANSPORTS, box_in, nothing_kept
from tests.system.labs.tmux_lab import COLUMNS, HERE, ROWS, TmuxTerminal

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(cribd), cribd.story() as connection:
        yield connection


@pytest.fixture
async def terminal(private_root: Path, cribd: Cribd) -> AsyncIterator[TmuxTerminal]:
    made = TmuxTerminal(private_root, f"unix://{cribd.socket}")
    try:
        await made.open()
        yield made
    finally:
        made.close()


async def settings(terminal: TmuxTerminal, path: Path) -> str:
    """The terminal's settings, as `stty -g` tells them."""
    path.unlink(missing_ok=True)
    terminal.enter(f"stty -g > {path}.new; mv {path}.new {path}; clear")
    await until(path.exists)
    await terminal.prompts(HERE)
    return path.read_text()


async def shell(terminal: TmuxTerminal, *words: str) -> None:
    """`crib exec -it` of a shell in the container, up to its first prompt."""
    terminal.enter(f"crib exec -it {' '.join(words)} box -- sh")
    await terminal.prompts("/ # ")


async def test_a_shell_in_a_container_from_its_prompt_to_its_end(
    cri: Cri, terminal: TmuxTerminal, private_root: Path
) -> None:
    await box_in(cri, "box")
    before = await settings(terminal, private_root / "before")
    for transport in TRANSPORTS:
        await shell(terminal, "--transport", transport)
        terminal.enter("hostname; tty")
        await terminal.shows("\nbox\n/dev/")
        terminal.enter("sh -c 'echo $((40 + 2)) runs; exec sleep 1000'")
        await terminal.shows("\n42 runs\n")  # before that Ctrl-C would be the shell's, which edits its line
        terminal.press("C-c")
        await terminal.prompts("/ # ")
        terminal.enter("echo ended with $?")
        await terminal.shows("\nended with 130\n")
        terminal.enter("PS1='last # '; (exit 42)")
        await terminal.prompts("\nlast # ")
        terminal.press("C-d")
        await terminal.prompts(HERE)
        terminal.enter("echo code $?")
        await terminal.shows("\ncode 42\n")
        assert await settings(terminal, private_root / "after") == before


async def test_a_window_that_is_resized_is_so_in_the_container(cri: Cri, terminal: TmuxTerminal) -> None:
    await box_in(cri, "box")
    for transport in TRANSPORTS:
        terminal.resize(COLUMNS, ROWS)
        terminal.enter("clear; echo now $((40 + 2))")  # or what the turn before has left would be seen
        await until(lambda: terminal.screen().startswith("now 42\n"))
        await shell(terminal, "--transport", transport)
        terminal.enter("stty size")
        await terminal.shows(f"\n{ROWS} {COLUMNS}\n")
        script = "trap 'stty size; echo told' WINCH; echo $((40 + 2)) set; while :; do sleep 0.05; done"
        terminal.enter(f'sh -c "{script}"')
        await terminal.shows("\n42 set\n")
        terminal.resize(123, 31)
        await terminal.shows("\n31 123\ntold\n")
        terminal.press("C-c")
        await terminal.prompts("/ # ")
        terminal.enter("exit")
        await terminal.prompts(HERE)


async def test_an_editor_that_takes_the_whole_screen_writes_its_file(
    cri: Cri, terminal: TmuxTerminal
) -> None:
    _, box = await box_in(cri, "box")
    poem = ["Rosen auf den Weg gestreut,", "und des Harms vergessen!", "Eine kleine Spanne Zeit", "ward uns"]
    terminal.enter("crib exec -it box -- vi /tmp/poem")
    assert (await terminal.shows("\n~\n")).count("\n~\n") > 0
    terminal.press("i")
    for line in poem:
        terminal.enter(line)
    terminal.press("Escape")
    await terminal.shows("\n- /tmp/poem [Modified]")  # a key just behind would be taken for a function key's
    assert "\n".join(poem) in terminal.screen()
    terminal.enter(":wq")
    await terminal.prompts(HERE)
    assert await cri.sh(box, "cat /tmp/poem") == "\n".join(poem)


async def test_the_terminal_is_as_before_however_a_session_ends(
    cri: Cri, terminal: TmuxTerminal, private_root: Path
) -> None:
    _, box = await box_in(cri, "box")
    before = await settings(terminal, private_root / "before")
    terminal.enter("crib exec -it box -- sh -c 'stty raw -echo; exit 3'; echo code $?")
    await terminal.shows("code 3\n")
    assert await settings(terminal, private_root / "after") == before

    terminal.enter("crib exec -it box -- nothere; echo code $?")
    assert "nothere" in await terminal.shows("code 127\n")
    assert await settings(terminal, private_root / "after") == before

    await shell(terminal)
    [crib] = terminal.children()
    os.kill(crib, signal.SIGTERM)
    await terminal.prompts(HERE)
    assert await settings(terminal, private_root / "after") == before

    await shell(terminal)
    await cri.stop_container(box)
    await until(lambda: not terminal.children())
    assert await settings(terminal, private_root / "after") == before


async def test_a_window_that_is_closed_ends_what_ran_in_the_container(
    cri: Cri, terminal: TmuxTerminal
) -> None:
    _, box = await box_in(cri, "box")
    await shell(terminal)
    terminal.enter("echo $((40 + 2)) runs; exec sleep 4321")
    await terminal.shows("\n42 runs\n")
    terminal.close_window()
    await until(lambda: cri.sh(box, "ps | grep -q '[s]leep 4321' || echo gone"))


async def test_keys_that_leave_an_attached_container_as_it_is(cri: Cri, terminal: TmuxTerminal) -> None:
    _, box = await box_in(cri, "box", "sh", tty=True, stdin=True)
    for transport, word in zip(TRANSPORTS, ("first", "second"), strict=True):
        terminal.enter(f"clear; crib attach -it --transport {transport} box; echo code $?")
        await until(terminal.children)
        terminal.press("Enter")
        await terminal.prompts("/ # ")
        terminal.enter(f"echo $word; word={word}; stty size")
        screen = await terminal.shows(f"\n{ROWS} {COLUMNS}\n")
        assert word == "first" or "\nfirst\n" in screen
        terminal.press("C-p", "C-q")
        await terminal.shows("detached\ncode 0\n")
    assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
    terminal.enter("clear; crib attach -it box; echo code $?")
    await until(terminal.children)
    terminal.enter("exit 6")
    await terminal.shows("\ncode ")
    assert (await cri.exited(box, BOUND)).exit_code == 6
