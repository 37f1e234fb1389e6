"""How containers have ended, first on file in their bundles, then told to who listens.

So none is lost with a daemon: whoever begins to listen reads the files first.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from crib.backends.bundle.bundles import Bundles
from crib.backends.environment import HandlerEnvironment
from crib.backends.pods.strays import ids
from crib.host.files import atomic_write
from crib.host.threads import OURS, Job
from crib.model.container import Exit
from crib.model.ends import OomKill, OomLevel
from crib.model.ids import ContainerId

_log = logging.getLogger(__name__)

_NAME = "exit.json"
_LIMIT = 65536
"""Bytes of it that are read."""


class FiledExits:
    """Of one handler."""

    def __init__(self, environment: HandlerEnvironment, bundles: Bundles) -> None:
        self._env = environment
        self._bundles = bundles
        self._locks: WeakValueDictionary[ContainerId, asyncio.Lock] = WeakValueDictionary()
        self._streams: set[asyncio.Queue[Exit]] = set()

    async def read(self, container: ContainerId) -> Exit | None:
        """The exit on file for a container; None when there is none (yet)."""
        return await OURS.run(self._job(container), read_exit, self._bundle(container), container)

    async def stream(self) -> AsyncIterator[Exit]:
        """See ContainerRuntime.exits."""
        news: asyncio.Queue[Exit] = asyncio.Queue()
        self._streams.add(news)
        try:
            # Reporting an exit twice does no harm, missing one does.
            for exit_ in await OURS.run("reading exits on file", self._on_file):
                yield exit_
            while True:
                yield await news.get()
        finally:
            self._streams.discard(news)

    def _on_file(self) -> list[Exit]:
        found = []
        for name in ids(self._env.paths.containers):
            container = ContainerId(name)
            exit_ = read_exit(self._bundle(container), container)
            if exit_ is None:
                continue
            note = self._bundles.read_note(container)
            if note is not None and self._env.owns(note.handler):
                found.append(exit_)
            else:
                self._bundles.forget(container)
        return found

    async def _filed(self, container: ContainerId, exit_: Exit) -> Exit:
        try:
            await OURS.run(self._job(container), write_exit, self._bundle(container), exit_)
        except FileNotFoundError:
            _log.warning("the bundle of container %s is gone: its exit is not kept on file", container)
        return exit_

    def _tell(self, exit_: Exit) -> None:
        """Those who listen; who begins to reads the files first."""
        for news in self._streams:
            news.put_nowait(exit_)

    def _lock(self, container: ContainerId) -> asyncio.Lock:
        """One at a time decides how it ended."""
        return self._locks.setdefault(container, asyncio.Lock())

    def _bundle(self, container: ContainerId) -> str:
        return self._env.paths.container(container)

    def _job(self, container: ContainerId) -> Job:
        return Job(f"the exit of container {container}", owner=container)


def write_exit(bundle: str, exit_: Exit) -> None:
    """Blocks. FileNotFoundError when the bundle is gone."""
    oom = exit_.oom
    document = {
        "code": exit_.code,
        "at": exit_.at,
        "oomKilled": exit_.oom_killed,
        "oom": None
        if oom is None
        else [oom.level.value, oom.cgroup, oom.limit, oom.pid, oom.process, oom.memory, oom.is_logged],
        "lost": exit_.lost,
        "neverRan": exit_.never_ran,
        "why": exit_.why,
    }
    atomic_write(f"{bundle}/{_NAME}", json.dumps(document).encode(), 0o600)


def read_exit(bundle: str, container: ContainerId) -> Exit | None:
    """None when there is none, or it is torn. Blocks."""
    try:
        with open(f"{bundle}/{_NAME}", "rb") as file:
            document = json.loads(file.read(_LIMIT))
        oom = document["oom"]
        return Exit(
            container,
            int(document["code"]),
            int(document["at"]),
            oom_killed=bool(document["oomKilled"]),
            oom=None if oom is None else OomKill(OomLevel(oom[0]), *oom[1:]),
            lost=bool(document["lost"]),
            never_ran=str(document["neverRan"]),
            why=str(document["why"]),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, IndexError):
        return None
