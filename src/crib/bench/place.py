"""Where a bench with pods works: a directory and the runtimes under measurement, all gone at its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from crib.bench.target import BenchTarget
from crib.bench.turns import reach, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLEAN_LIMIT = 300.0
"""Seconds that cleaning up may take."""


class BenchPlace:
    """Of one run of a bench."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="crib-bench-")
        # a runtime's unprivileged parts read the archive and make logs below
        os.chmod(self.directory, 0o755)  # noqa: S103  # holds nothing secret
        self.targets: list[BenchTarget] = []

    def __iter__(self) -> Iterator[BenchTarget]:
        return iter(self.targets)

    @property
    def names(self) -> list[str]:
        """The columns of the table."""
        return [target.name for target in self.targets]

    async def reach(self, text: str, image: str, pids: Sequence[str] | None) -> BenchTarget:
        """One more runtime, `NAME=ENDPOINT`, which is still to be prepared. ClientError."""
        found = await reach(text, pids)
        target = BenchTarget(found.name, found.connection, self.directory, image, pid=found.pid)
        self.targets.append(target)
        return target

    async def clean(self) -> None:
        """Remove what was made in the runtimes, and the directory; tell what cannot be removed."""
        failures: list[str] = []
        try:
            async with asyncio.timeout(CLEAN_LIMIT):
                for target in self.targets:
                    failures += await target.clean()
                    await target.connection.close()
        except TimeoutError:
            failures.append(f"cleaning up took more than {CLEAN_LIMIT:g} s")
        shutil.rmtree(self.directory, ignore_errors=True)
        for failure in failures:
            say(f"crib: {failure}")
