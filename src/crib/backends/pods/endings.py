"""An exit with what counters and the kernel's log say of its cause: whether, and whose, memory ran out."""

from __future__ import annotations

import os

from crib.backends.bundle.bundles import BundleNote
from crib.backends.pods.oom import OomKills
from crib.backends.pods.oom_causes import OomCauses
from crib.model.container import Exit
from crib.model.ids import ContainerId


class Endings:
    """Blocks: for a thread."""

    def __init__(self, oom: OomKills, causes: OomCauses) -> None:
        self._oom = oom
        self._causes = causes

    def exit_of(self, container: ContainerId, note: BundleNote | None, code: int, at: int) -> Exit:
        """Of a first process that ended with this code at that time, in ns."""
        if not self._oom.ended(container, note, code):
            return Exit(container, code, at)
        cause = None if note is None else self._causes.find(note.cgroup, os.path.dirname(note.cgroup))
        return Exit(container, code, at, oom_killed=True, oom=cause)
