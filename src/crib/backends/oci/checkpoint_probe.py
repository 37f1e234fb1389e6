"""Whether there is a CRIU on this host that makes checkpoints, and what is missing otherwise."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass

from crib.backends.runtime_words import runtime_words
from crib.host.processes import run

CRIU = "criu"
"""Runtimes look for the program by this name."""
OLDEST = (4, 0)
"""The oldest criu that is used: 3.17 fails on kernels of 2025 with errors that name no cause."""
PROBE_SECONDS = 20.0
_VERSION = re.compile(rb"Version: (\d+)\.(\d+)(\S*)")


@dataclass(frozen=True, slots=True)
class Criu:
    """The program, as it was found."""

    path: str = ""
    version: str = ""
    problem: str = ""
    """What keeps checkpoints from being made; empty if nothing."""

    @property
    def search_path(self) -> str:
        """A PATH on which a runtime finds it."""
        inherited = os.environ.get("PATH", os.defpath)
        return f"{os.path.dirname(self.path)}:{inherited}" if self.path else inherited


NO_CRIU = Criu(problem="nobody has looked for criu")


async def probe_criu(configured: str) -> Criu:
    """Find it and ask it. OSError when it cannot be run."""
    path = shutil.which(configured or CRIU)
    if path is None:
        return Criu(problem=f"{configured or 'criu'} was not found: install criu, or set checkpoints.criu")
    path = os.path.abspath(path)
    if os.path.basename(path) != CRIU:
        return Criu(problem=f"checkpoints.criu is {path}: runtimes look for it, and it must be called criu")
    return await _ask(path)


async def _ask(path: str) -> Criu:
    said = (await run((path, "--version"), timeout=PROBE_SECONDS)).stdout
    match = _VERSION.search(said)
    if match is None:
        return Criu(path, problem=f"{path} --version says {said[:200]!r}, which has no version in it")
    version = f"{int(match[1])}.{int(match[2])}{match[3].decode('ascii', 'replace')}"
    if (int(match[1]), int(match[2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        return Criu(path, version, f"{path} is version {version}, and at least {needed} is needed")
    checked = await run((path, "check"), timeout=PROBE_SECONDS)
    if checked.exit_code != 0:
        words = runtime_words((checked.stderr + checked.stdout).decode("utf-8", "replace"))
        return Criu(path, version, f"criu check says that this kernel will not do: {words}")
    return Criu(path, version)
