"""A person at a terminal: `crib exec -it` and `crib attach` in tmux, keys typed and the screen looked at."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import BOUND, CRIB, SOURCE, TRANSPORTS, box_in, nothing_kept

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]

COLUMNS, ROWS = 90, 28
HERE = "here> "
"""The prompt of the shell outside."""


class Terminal:
    """A tmux of its own with one window, in which a shell runs."""

    def __init__(self, directory: Path, cribd: Cribd) -> None:
        self._tmux = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        crib = " ".join(map(shlex.quote, (*CRIB, "--endpoint", f"unix://{cribd.socket}")))
        (directory / "profile").write_text(f"crib() {{ {crib} \"$@\"; }}\nPS1='{HERE}'\n")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TMUX")},
            "PYTHONPATH": str(SOURCE),
            "ENV": str(directory / "profile"),
            "LC_ALL": "C.UTF-8",
            "TERM": "screen",
        }
        # In the foreground: a child of ours, so that it cannot be left behind.
        self._server = subprocess.Popen([*self._tmux, "-D"], env=environment, stdin=subprocess.DEVNULL)

    async def open(self) -> None:
        """The shell is there."""
        size = ("-x", str(COLUMNS), "-y", str(ROWS))
        await until(lambda: self._ask("new-session", "-d", *size, "sh", check=False) is not None)
        await self.prompts(HERE)

    def close(self) -> None:
        self._ask("kill-server", check=False)
        try:
            self._server.wait(BOUND)
        finally:
            self._server.kill()
            self._server.wait()

    def type(self, text: str) -> None:
        """Keys as they are."""
        self._ask("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: Enter, C-c, Escape."""
        self._ask("send-keys", *keys)

    def enter(self, line: str) -> None:
        self.type(line)
        self.press("Enter")

    def resize(self, columns: int, rows: int) -> None:
        self._ask("resize-window", "-x", str(columns), "-y", str(rows))

    def close_window(self) -> None:
        self._ask("kill-pane")

    def children(self) -> list[int]:
        """Processes that the shell has started."""
        shell = (self._ask("list-panes", "-F", "#{pane_pid}") or "").strip()
        return [int(pid) for pid in Path(f"/proc/{shell}/task/{shell}/children").read_text().split()]

    def screen(self) -> str:
        """Its lines, without the spaces at their ends."""
        return self._ask("capture-pane", "-p") or ""

    async def shows(self, text: str) -> str:
        """The screen, once that is on it."""
        try:
            await until(lambda: text in self.screen(), BOUND)
        except AssertionError:
            raise AssertionError(f"{text!r} is not on the screen:\n{self.screen()}") from None
        return self.screen()

    async def prompts(self, prompt: str) -> None:
        """Returns when the last line ends with a prompt."""
        try:
            await until(lambda: self.screen().rstrip().endswith(prompt.rstrip()), BOUND)
        except AssertionError:
            raise AssertionError(f"no prompt {prompt!r}:\n{self.screen()}") from None

    def _ask(self, *words: str, check: bool = True) -> str | None:
        command = [*self._tmux, "-N", *words]  # which starts no server
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False)
        assert not check or done.returncode == 0, (words, done.stderr)
        return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(cribd), cribd.story() as connection:
        yield connection


@pytest.fixture
async def terminal(private_root: Path, cribd: Cribd) -> AsyncIterator[Terminal]:
    made = Terminal(private_root, cribd)
    try:
        await made.open()
        yield made
    finally:
        made.close()


async def settings(terminal: Terminal, path: Path) -> str:
    """The terminal's settings, as `stty -g` tells them."""
    path.unlink(missing_ok=True)
    terminal.enter(f"stty -g > {path}.new; mv {path}.new {path}; clear")
    await until(path.exists)
    await terminal.prompts(HERE)
    return path.read_text()


async def shell(terminal: Terminal, *words: str) -> None:
    """`crib exec -it` of a shell in the container, up to its first prompt."""
    terminal.enter(f"crib exec -it {' '.join(words)} box -- sh")
    await terminal.prompts("/ # ")


async def test_a_shell_in_a_container_from_its_prompt_to_its_end(
    cri: Cri, terminal: Terminal, private_root: Path
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


async def test_a_window_that_is_resized_is_so_in_the_container(cri: Cri, terminal: Terminal) -> None:
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


async def test_an_editor_that_takes_the_whole_screen_writes_its_file(cri: Cri, terminal: Terminal) -> None:
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
    cri: Cri, terminal: Terminal, private_root: Path
) -> None:
    _, box = await box_in(cri, "box")
    before = await settings(terminal, private_root / "before")
    terminal.enter("crib exec -it box -- sh -c 'stty raw -echo; exit 3'; echo code $?")
    await terminal.shows("code 3\n")
    assert await settings(terminal, private_root / "after") == before

    terminal.enter("crib exec -it box -- nothere; echo code $?")
    assert "nothere" in await terminal.shows("code 1\n")
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


async def test_a_window_that_is_closed_ends_what_ran_in_the_container(cri: Cri, terminal: Terminal) -> None:
    _, box = await box_in(cri, "box")
    await shell(terminal)
    terminal.enter("echo $((40 + 2)) runs; exec sleep 4321")
    await terminal.shows("\n42 runs\n")
    terminal.close_window()
    await until(lambda: cri.sh(box, "ps | grep -q '[s]leep 4321' || echo gone"))


async def test_keys_that_leave_an_attached_container_as_it_is(cri: Cri, terminal: Terminal) -> None:
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
