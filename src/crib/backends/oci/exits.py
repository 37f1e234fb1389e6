"""Exits as conmon files them: those that are there, then each new one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from crib.backends.oci.bundles import BundleNote, Bundles
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.failures import trying
from crib.host.cgroup_stats import StatsReader
from crib.host.inotify import WRITTEN, DirectoryWatcher
from crib.model.container import Exit
from crib.model.ids import ContainerId, is_id
from crib.wire.conmon import decode_exit

_KILL_TIME = 5.0


class Exits:
    """Reads exit files and says whether memory was the cause."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles, stats: StatsReader) -> None:
        self._env = environment
        self._bundles = bundles
        self._stats = stats

    def read(self, container: ContainerId) -> Exit | None:
        """The exit on file for a container; None when there is none (yet)."""
        path = self._env.paths.exit_file(container)
        try:
            with open(path, "rb") as file:
                code = decode_exit(file.read(64))
                at = os.fstat(file.fileno()).st_mtime_ns
        except (FileNotFoundError, ValueError):
            return None
        note = self._bundles.read_note(container)
        return Exit(container, code, at, oom_killed=self._oom_killed(container, note))

    async def stream(self) -> AsyncIterator[Exit]:
        """See Handler.exits. Only of containers of this handler; what another left is another's to tell."""
        with trying("watching exit files"), DirectoryWatcher([self._env.paths.exits], WRITTEN) as watcher:
            for exit_ in await self._on_file():
                yield exit_
            async for event in watcher:
                if event.lost:
                    # Telling an exit twice is harmless, missing one is not.
                    for exit_ in await self._on_file():
                        yield exit_
                elif (found := await self._ours(event.name)) is not None:
                    yield found

    async def _on_file(self) -> list[Exit]:
        found = [await self._ours(name) for name in sorted(os.listdir(self._env.paths.exits))]
        return [exit_ for exit_ in found if exit_ is not None]

    async def _ours(self, name: str) -> Exit | None:
        if not is_id(name):
            return None
        container = ContainerId(name)
        note = self._bundles.read_note(container)
        if note is None or note.handler != self._env.facts.name:
            return None
        if note.shared_pids:
            # Nobody else ends what its first process left behind in a pid namespace that goes on.
            await self._env.cgroups.kill(note.cgroup, _KILL_TIME)
        return self.read(container)

    def _oom_killed(self, container: ContainerId, note: BundleNote | None) -> bool:
        if os.path.exists(f"{self._env.paths.container(container)}/oom"):
            return True
        return note is not None and self._stats.oom_kills(note.cgroup) > 0
