"""Limits of memory, and how often each was hit (kernel, admin-guide/cgroup-v1/memory and cgroup-v2)."""

from __future__ import annotations

import os

from crib.host.cgroups import CgroupLayout

_UNLIMITED = 1 << 62
"""With v1 no limit is the largest number of whole pages."""


class MemoryLimits:
    """Reads the memory controller of one layout."""

    def __init__(self, layout: CgroupLayout) -> None:
        self._v2 = layout.unified if layout.mode == "v2" else None
        self._root = self._v2 or layout.controllers.get("memory")

    def hits(self, path: str) -> int | None:
        """How often this very cgroup had too little; None when it is gone or does not tell.

        With v2 those that ended in a kill or a failure. With v1 also those that only freed memory, so that a
        number above zero proves nothing by itself.
        """
        if self._v2 is None:
            return _number(self._text(path, "memory.failcnt"))
        for line in self._text(path, "memory.events.local").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom":
                return _number(value)
        return None

    def limit(self, path: str) -> int | None:
        """Bytes; None where there is none, or it cannot be read."""
        name = "memory.limit_in_bytes" if self._v2 is None else "memory.max"
        found = _number(self._text(path, name))
        return None if found is None or found >= _UNLIMITED else found

    def _text(self, path: str, name: str) -> str:
        if self._root is None:
            return ""
        try:
            with open(f"{self._root}{os.path.normpath(path)}/{name}", encoding="ascii") as file:
                return file.read()
        except (OSError, UnicodeError):
            return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
