"""Programs that hang when they are told to: an OCI runtime and conmon, each a script around the real one.

    programs = HangingPrograms(directory)
    with running_cribd(extra=programs.settings()) as cribd:
        programs.hang("delete", container)      # the runtime's delete of that container, from now on
        programs.release("delete", container)   # and those that wait go on

What hangs does so until it is released or killed. Every call is noted before that.
"""

from __future__ import annotations

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
