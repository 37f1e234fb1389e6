"""Notices pods that lose what holds them together: pinned namespaces, /dev/shm, their infra process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from crib.backends.failures import trying
from crib.backends.known_processes import Deaths
from crib.backends.pods.namespaces import held_by
from crib.host.mount_table import MountChanges, mount_roots_below
from crib.host.threads import OURS
from crib.model.ids import SandboxId
from crib.model.paths import Paths
from crib.model.sandbox import ProcessIdentity, SandboxRecord

PAUSE = 0.5
"""Seconds from a change of the mount table to the look at it: most are our own, and come in crowds."""
REST = 20
"""The same in lengths of the last look, where that is more: with a thousand pods a look takes 60 ms of CPU,
and each start of a pod changes the table.
"""
LONGEST_PAUSE = 5.0


def pause_after(look: float) -> float:
    """Seconds from the next change to the next look, after one that took so many."""
    return min(max(PAUSE, REST * look), LONGEST_PAUSE)


class PodLosses:
    """Reports the end of infra processes. Reads the mount table, for all pods at once, when it has changed.

    The kernel (before 6.15) reports no single mount.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._news: asyncio.Queue[SandboxId | None] = asyncio.Queue()
        """Pods whose infra process ended; None: the mount table has changed."""
        self._deaths: Deaths[SandboxId] = Deaths(self._news.put_nowait)

    def watch(self, sandbox: SandboxId, infra: ProcessIdentity) -> None:
        """Report when this process ends."""
        with trying(f"watching the infra process of pod sandbox {sandbox}"):
            self._deaths.watch(sandbox, infra)

    async def stream(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        """See PodRuntime.losses."""
        loop = asyncio.get_running_loop()
        later, pause = loop.call_later, PAUSE
        with trying("watching mounts"):
            mounts = MountChanges(lambda: later(pause, self._news.put_nowait, None))
        try:
            for record in ready():
                if record.infra is not None:
                    self.watch(record.id, record.infra)
            self._news.put_nowait(None)
            while True:
                news = await self._news.get()
                if news is not None:
                    yield news
                    continue
                with trying("watching mounts"):
                    mounts.listen()
                began = loop.time()
                with trying("reading the mount table"):
                    torn = await OURS.run("reading the mount table", self._torn, tuple(ready()))
                pause = pause_after(loop.time() - began)
                for sandbox in torn:
                    yield sandbox
        finally:
            mounts.close()
            self._deaths.close()

    def _torn(self, records: Iterable[SandboxRecord]) -> list[SandboxId]:
        roots = mount_roots_below(self._paths.sandboxes)
        return [
            record.id
            for record in records
            if not all(
                place in roots and namespace in ("", roots[place])
                for place, namespace in held_by(self._paths, record).items()
            )
        ]
