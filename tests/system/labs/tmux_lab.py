"""A terminal for tests: tmux, with a shell that knows crib; keys are typed and the screen is looked at."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from tests.system.labs.daemon import until
from tests.system.labs.stream_lab import BOUND, CRIB, SOURCE

COLUMNS, ROWS = 90, 28
HERE = "here> "
"""The prompt of the shell outside."""

_NOT_INSIDE = ("TMUX", "COLUMNS", "LINES")
"""Variables that speak of another terminal."""


class TmuxTerminal:
    """A tmux of its own with one window, in which a shell runs."""

    def __init__(self, directory: Path, endpoint: str, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self._size = (columns, rows)
        self._tmux = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        crib = " ".join(map(shlex.quote, (*CRIB, "--endpoint", endpoint)))
        (directory / "profile").write_text(f"crib() {{ {crib} \"$@\"; }}\nPS1='{HERE}'\n")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_INSIDE)},
            "PYTHONPATH": str(SOURCE),
            "ENV": str(directory / "profile"),
            "LC_ALL": "C.UTF-8",
            "TERM": "screen",
        }
        # In the foreground: a child of ours, so that it cannot be left behind.
        self._server = subprocess.Popen([*self._tmux, "-D"], env=environment, stdin=subprocess.DEVNULL)

    async def open(self) -> None:
        """The shell is there."""
        size = ("-x", str(self._size[0]), "-y", str(self._size[1]))
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

    def lines(self) -> list[str]:
        """Those that were written, whole: the parts of one that did not fit are joined."""
        return [line.rstrip() for line in (self._ask("capture-pane", "-p", "-J") or "").splitlines()]

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
