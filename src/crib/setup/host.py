"""What can be read of a host. Of a missing file the content is empty."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from crib.host.processes import ToolMissing, run

VERSION_SECONDS = 10.0
"""For a program to tell its version."""
MAX_BYTES = 4 << 20
"""Of one file that is read."""


class State(StrEnum):
    """How a finding is."""

    OK = "ok"
    NOTE = "note"
    """It may be meant so, or costs something."""
    PROBLEM = "problem"
    """Pods cannot run so, or not as a kubelet wants it."""


@dataclass(frozen=True, slots=True)
class SetupFinding:
    """One thing that was looked at."""

    area: str
    subject: str
    state: State
    text: str
    cure: str = ""
    """What to do: a command where one does it."""


def ok(area: str, subject: str, text: str) -> SetupFinding:
    return SetupFinding(area, subject, State.OK, text)


def note(area: str, subject: str, text: str, cure: str = "") -> SetupFinding:
    return SetupFinding(area, subject, State.NOTE, text, cure)


def problem(area: str, subject: str, text: str, cure: str) -> SetupFinding:
    return SetupFinding(area, subject, State.PROBLEM, text, cure)


class HostView:
    """The host below `root`, which is `/` but for tests."""

    def __init__(self, root: str = "/", search: Sequence[str] | None = None) -> None:
        """`search`: directories of programs; $PATH by default."""
        self._root = root.rstrip("/")
        self._search = None if search is None else os.pathsep.join(search)

    def path(self, path: str) -> str:
        """Where it is, seen from here."""
        return f"{self._root}{path}"

    def text(self, path: str) -> str:
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as file:
                return file.read(MAX_BYTES)
        except OSError:
            return ""

    def lines(self, path: str) -> list[str]:
        return self.text(path).splitlines()

    def names(self, path: str) -> list[str]:
        """What is in a directory, in order; nothing if there is none."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    def find(self, program: str) -> str:
        """Where a program is, by name or path; empty if it is not here."""
        if "/" in program:
            return program if os.access(self.path(program), os.X_OK) else ""
        return shutil.which(program, path=self._search) or ""

    async def version(self, program: str) -> str:
        """The first line of what a program says of its version; empty if it says nothing."""
        try:
            done = await run((program, "--version"), timeout=VERSION_SECONDS)
        except (ToolMissing, OSError):
            return ""
        return next(iter(done.stdout.decode("utf-8", "replace").splitlines()), "").strip()

    def has_module(self, name: str) -> bool:
        """Whether the kernel has it now: loaded or built in."""
        return self.exists(f"/sys/module/{name}") or self._listed("modules.builtin", name)

    def can_load(self, name: str) -> bool:
        """Whether it is on disk for the running kernel."""
        return self._listed("modules.dep", name)

    @property
    def release(self) -> str:
        """Of the kernel that runs."""
        return self.text("/proc/sys/kernel/osrelease").strip() or os.uname().release

    def _listed(self, file: str, name: str) -> bool:
        endings = tuple(f"/{spelled}.ko" for spelled in (name, name.replace("_", "-")))
        words = (line.split(":")[0] for line in self.lines(f"/lib/modules/{self.release}/{file}"))
        return any(word.rsplit(".ko", 1)[0].endswith(tuple(one[:-3] for one in endings)) for word in words)
