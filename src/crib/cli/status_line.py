"""A line of the terminal that others take the place of."""

from __future__ import annotations

import sys


class StatusLine:
    """The last line of a terminal while something lasts, see `patience`. Other lines take its place."""

    def __init__(self) -> None:
        self._is_shown = False

    def show(self, text: str) -> None:
        """Write it on standard error, over the one before (ECMA-48: EL)."""
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()
        self._is_shown = True

    def clear(self) -> None:
        """Take it away, if there is one."""
        if self._is_shown:
            self._is_shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


STATUS_LINE = StatusLine()
