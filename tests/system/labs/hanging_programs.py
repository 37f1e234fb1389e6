"""Programs that hang when they are told to: an OCI runtime and conmon, each a script around the real one.

    programs = HangingPrograms(directory)
    with running_cribd(extra=programs.settings()) as cribd:
        programs.hang("delete", container)      # the runtime's delete of that container, from now on
        programs.release("delete", container)   # and those that wait go on

What hangs does so until it is released or killed. Every call is noted before that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_SCRIPT = """#!/bin/sh
case "$1" in --version) {version};; esac
verb={program}
for word in "$@"; do
    case "{program} $word" in "runtime create" | "runtime start" | "runtime state")
        verb=$word;;
    esac
    case "{program} $word" in "runtime delete" | "runtime exec" | "runtime kill" | "runtime update")
        verb=$word;;
    esac
    case "$word" in ????????????????????????????????????????????????????????????????) id=$word;; esac
done
echo "$verb $id $$" >> {directory}/calls
while [ -e {directory}/hang.$verb ] || [ -e {directory}/hang.$verb.$id ]; do sleep 0.05; done
exec {real} "$@"
"""


class HangingPrograms:
    """A runtime and a monitor below `directory`; `kind` is what the runtime says of itself."""

    def __init__(self, directory: Path, kind: str = "crun") -> None:
        self._directory = directory
        self.calls_file = directory / "calls"
        self.calls_file.touch()
        self.runtime = self._write("runtime", "crun", f'echo "{kind} version 1.8"; exit 0')
        self.monitor = self._write("monitor", "conmon", ":")

    def _write(self, program: str, real: str, version: str) -> Path:
        found = shutil.which(real)
        assert found, real
        path = self._directory / program
        path.write_text(
            _SCRIPT.format(directory=self._directory, program=program, real=found, version=version)
        )
        path.chmod(0o755)
        return path

    def settings(self, verb_timeout: float = 240.0) -> str:
        """Lines of the configuration's top."""
        return (
            f'verb_timeout = {verb_timeout}\nconmon = "{self.monitor}"\n'
            f'default_handler = "crun"\n[handlers.crun]\npath = "{self.runtime}"\n'
        )

    def hang(self, verb: str, container: str = "") -> None:
        """`verb`: of the runtime, or `monitor`."""
        self._flag(verb, container).touch()

    def release(self, verb: str, container: str = "") -> None:
        self._flag(verb, container).unlink(missing_ok=True)

    def release_all(self) -> None:
        for flag in self._directory.glob("hang.*"):
            flag.unlink()

    def _flag(self, verb: str, container: str) -> Path:
        return self._directory / (f"hang.{verb}.{container}" if container else f"hang.{verb}")

    def calls(self, verb: str, container: str = "") -> list[int]:
        """The pids of all such calls so far."""
        words = [line.split() for line in self.calls_file.read_text().splitlines()]
        return [int(found[-1]) for found in words if found[0] == verb and container in found[1:]]


_GATED = """#!/bin/sh
case " $* " in
*"{word}"*)
    if [ -e "{gate}" ]; then
        touch "{reached}"
        read -r _ < "{gate}"
    fi ;;
esac
exec {program} "$@"
"""


class Gate:
    """A program in front of another one: as long as the gate is closed it waits, if `word` is an argument."""

    def __init__(self, directory: Path, program: str, word: str = "") -> None:
        self.program, self._fifo = directory / f"slow-{program}", directory / f"{program}.gate"
        self.reached = directory / f"{program}.reached"
        self.program.write_text(
            _GATED.format(program=program, word=word, gate=self._fifo, reached=self.reached)
        )
        self.program.chmod(0o755)
        self._ends: list[int] = []

    def close(self) -> None:
        os.mkfifo(self._fifo)

    def open(self) -> None:
        """Let who waits go on, and all after it. Nothing when it is open."""
        with contextlib.suppress(FileNotFoundError):
            # Both ends: the write must not wait for a reader, and none that comes late may wait for it.
            fifo = os.open(self._fifo, os.O_RDWR)
            self._fifo.unlink()
            os.write(fifo, b"on\n")
            self._ends.append(fifo)

    def forget(self) -> None:
        """Let those who come from now on through; who waits, waits for ever."""
        self._fifo.unlink()

    def end(self) -> None:
        self.open()
        for fifo in self._ends:
            os.close(fifo)
