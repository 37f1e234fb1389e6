"""The first moments of the program: how little it reads for its version, and Ctrl-C at any instant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from crib.cli import app

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "packaging/crib"
BOUND = 120.0
"""Seconds; a busy machine is slow."""
INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)
"""Ended by the signal itself, or by the program because of it: 130 for a shell, both of them."""
INSTANTS = (5, 30, 400, 3_000, 9_000, 25_000, 60_000, 120_000, 250_000, 400_000)
"""Function calls since the beginning; the first four see to the signal. Without a daemon it is 450,000."""

# Ctrl-C at the given function call: deterministic, and the same instant on a slow machine as on a fast one.
INTERRUPTING = textwrap.dedent(
    """
    import _signal, posix, sys
    at, program = int(sys.argv[1]), sys.argv[2]
    sys.argv = ["crib", *sys.argv[3:]]
    with open(program) as file:
        code = compile(file.read(), program, "exec")
    count = 0
    def look(frame, event, value):
        global count
        count += event in ("call", "c_call")
        if count == at:
            posix.kill(posix.getpid(), _signal.SIGINT)
    if at == 0:
        import atexit
        atexit.register(lambda: print(count))
    sys.setprofile(look)
    exec(code, {"__name__": "__main__"})
    """
)


def run(*arguments: str, flags: Sequence[str] = ("-IS",)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, *arguments],
        # the measuring of coverage imports much before the program begins
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def interrupted(at: int, *words: str) -> subprocess.CompletedProcess[str]:
    return run("-c", INTERRUPTING, str(at), str(PROGRAM), *words)


def test_the_version_needs_none_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    done = run("-X", "importtime", str(PROGRAM), "--version")
    assert app._ending(["--version"]) == 0
    assert done.stdout == capsys.readouterr().out
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "crib.cli.session" in imported
    assert not imported & {"typer", "asyncio", "inspect", "dataclasses", "rich", "google.protobuf", "grpc"}


def test_the_program_answers_as_its_commands_do() -> None:
    done = run(str(PROGRAM), "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("crib: there is no command 'nonsense'")


@pytest.mark.parametrize("at", INSTANTS)
def test_an_interrupt_is_silent_at_every_instant(at: int, tmp_path: Path) -> None:
    look_at(at, tmp_path)


@pytest.mark.nightly
def test_an_interrupt_is_silent_at_sixty_more_instants(tmp_path: Path) -> None:
    calls = int(interrupted(0, "-e", f"{tmp_path}/none", "exec", "x", "ls").stdout)
    for part in range(30):
        look_at(5 + part * calls // 30, tmp_path)
        look_at(calls - 1000 * part, tmp_path)  # most of what can be torn is at the end


def look_at(at: int, tmp_path: Path) -> None:
    done = interrupted(at, "-e", f"{tmp_path}/none", "exec", "x", "ls")
    assert done.stderr in (
        "",
        f"crib: no runtime answers at unix://{tmp_path}/none: "
        "no such socket; is cribd running? (--endpoint, CRIB_ENDPOINT)\n",
    )
    if done.returncode != 125:  # it had ended before
        assert done.returncode in INTERRUPTED
        assert done.stdout == ""


def test_an_interrupt_that_is_ignored_from_the_start_stays_so() -> None:
    """As of a command that a script starts in the background (POSIX, Asynchronous Lists)."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = interrupted(300, "--version")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == (0, "")
