"""Whether the programs that a handler needs are there."""

from __future__ import annotations

import os
import time

from crib.host.threads import OURS

FRESH = 3.0
"""Seconds for which a look at the programs counts."""


class Programs:
    """Whether programs can still be run: a package that is being replaced, or removed by mistake."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._looked = -FRESH
        self._missing = ""

    async def missing(self) -> str:
        """What is wrong with the first that is not there; empty when all are."""
        now = time.monotonic()
        if now - self._looked >= FRESH:
            self._looked = now
            try:
                self._missing = await OURS.run("looking for the runtime's programs", self._look)
            except OSError as error:
                self._missing = str(error)
        return self._missing

    def _look(self) -> str:
        gone = (path for path in self._paths if not os.access(path, os.X_OK))
        return next((f"{path} does not exist, or cannot be executed" for path in gone), "")
