"""Exits as conmon files them: those that are there, then each new one.

A monitor that dies before it could file one leaves a container that nobody watches, whose log and exit code
are lost. It is then ended, and its exit is reported as unknown. So it is with a monitor that hangs,
as one does whose log lies on a file system that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.failures import trying
from crib.backends.known_processes import Deaths
from crib.backends.oci.environment import OciEnvironment
from crib.backends.pods.endings import Endings
from crib.backends.pods.signals import Signals
from crib.backends.streams.refusals import with_refusal
from crib.host.inotify import WRITTEN, DirectoryWatcher
from crib.host.processes import RunOptions, run
from crib.host.threads import OURS, Job
from crib.model.container import Exit
from crib.model.ids import ContainerId, is_id
from crib.model.sandbox import ProcessIdentity
from crib.tasks.groups import Beside
from crib.tasks.keeper import TaskKeeper
from crib.wire.conmon import decode_exit

_log = logging.getLogger(__name__)
T = TypeVar("T")

LOST_CODE = 255
KILLED_CODE = 128 + signal.SIGKILL
MONITOR_TIME = 20.0
"""Seconds from the end of a container's first process to the exit that its monitor has to file."""
RETRY_AFTER = 1.0
"""Seconds until an exit file that could not be read is tried again: nobody else reports that exit."""


class Exits:
    """Reads exit files and says whether memory was the cause."""

    def __init__(
        self, environment: OciEnvironment, bundles: Bundles, signals: Signals, endings: Endings
    ) -> None:
        self._env = environment
        self._bundles = bundles
        self._signals = signals
        self._endings = endings
        self._monitors: Deaths[ContainerId] = Deaths(self._monitor_ended)
        self._firsts: Deaths[ContainerId] = Deaths(self._first_ended)
        self._streams: set[asyncio.Queue[Exit | None]] = set()
        self._untold: list[Exit] = []
        """Of monitors that ended while nobody listened."""
        self._keeper = TaskKeeper()

    def watch(
        self, container: ContainerId, monitor: ProcessIdentity | None, first: ProcessIdentity | None = None
    ) -> None:
        """Report this container's exit even if its monitor dies, or does not report its first process.

        Each is watched from its create on, or from the first look at it after a start.
        """
        with trying(f"watching container {container}"):
            if monitor is not None:
                self._monitors.watch(container, monitor)
            if first is not None:
                self._firsts.watch(container, first)

    def forget(self, container: ContainerId) -> None:
        """Its exit is told, or it is about to be removed: no end of a process of it is news any more."""
        self._monitors.forget(container)
        self._firsts.forget(container)

    def close(self) -> None:
        """Watch nothing any more."""
        self._monitors.close()
        self._firsts.close()
        self._keeper.cancel()

    async def read(self, container: ContainerId) -> Exit | None:
        """The exit on file for a container; None when there is none (yet)."""
        note = await self._bundles.note(container)
        found = await OURS.run(self._job(container), self._on_file, container, note)
        return None if found is None else await with_refusal(found, note)

    async def stream(self) -> AsyncIterator[Exit]:
        """See Handler.exits. Only of containers that are this handler's to look after."""
        news: asyncio.Queue[Exit | None] = asyncio.Queue()
        for exit_ in self._untold:
            news.put_nowait(exit_)
        self._untold.clear()
        self._streams.add(news)
        try:
            async with Beside() as beside:
                watch = beside.start("watching exit files", self._watch_directory(news))
                watch.add_done_callback(lambda _done: news.put_nowait(None))
                with trying("watching exit files"):
                    while (found := await news.get()) is not None:
                        yield found
                    watch.result()
        finally:
            self._streams.discard(news)

    async def _watch_directory(self, news: asyncio.Queue[Exit | None]) -> None:
        """Also one that somebody removes: it is made again, and what monitors file from then on is seen."""
        while True:
            with await OURS.run("watching exit files", self._watcher) as watcher:
                # Reporting an exit twice does no harm, missing one does.
                for name in await OURS.run("listing exit files", self._names):
                    self._tell(name, news)
                async for event in watcher:
                    if event.lost:
                        break
                    self._tell(event.name, news)

    def _watcher(self) -> DirectoryWatcher:
        os.makedirs(self._env.paths.exits, mode=0o700, exist_ok=True)
        return DirectoryWatcher([self._env.paths.exits], WRITTEN)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._env.paths.exits))
        except FileNotFoundError:  # removed just now, as the watch will report
            return []

    def _tell(self, name: str, news: asyncio.Queue[Exit | None]) -> None:
        """Each exit by itself: a log that does not answer holds up no other container's."""
        if is_id(name):
            self._keeper.part("telling an exit", self._tell_filed(ContainerId(name), news), name)

    async def _tell_filed(self, container: ContainerId, news: asyncio.Queue[Exit | None]) -> None:
        note = await self._at_last(container, self._bundles.note)
        # Without one nobody can say whose it is, and every handler reports it.
        if note is not None and not self._env.owns(note.handler):
            self._bundles.forget(container)
            return
        if note is not None and note.shared_pids:
            # Nobody else ends what its first process left behind in a pid namespace that stays.
            await self._end_rest(container, note)
        found = await self._at_last(container, self.read)
        if found is not None:
            self.forget(container)
            news.put_nowait(found)

    def _monitor_ended(self, container: ContainerId) -> None:
        self._tell_lost_later(container, "its monitor has ended")

    def _first_ended(self, container: ContainerId) -> None:
        def ask() -> None:
            if self._monitors.watches(container):
                why = f"its first process ended {MONITOR_TIME:.0f} s ago, and its monitor has not reported it"
                self._tell_lost_later(container, why)

        asyncio.get_running_loop().call_later(MONITOR_TIME, ask)

    def _tell_lost_later(self, container: ContainerId, why: str) -> None:
        self._keeper.part("telling a lost exit", self._tell_lost(container, why), container)

    async def _tell_lost(self, container: ContainerId, why: str) -> None:
        if await self._at_last(container, self.read) is not None:
            return  # filed as it should be
        note = await self._at_last(container, self._bundles.note)
        _log.warning("the exit code of container %s is lost: %s", container, why)
        if note is not None:
            await self._end_rest(container, note)
        lost = Exit(container, LOST_CODE, time.time_ns(), lost=True)
        for news in self._streams:
            news.put_nowait(lost)
        if not self._streams:
            self._untold.append(lost)

    async def _at_last(self, container: ContainerId, ask: Callable[[ContainerId], Awaitable[T]]) -> T:
        """The answer: nobody else reports that exit, so a lack of descriptors must not lose it."""
        while True:
            try:
                return await ask(container)
            except OSError as error:
                _log.warning("the exit of container %s: %s; trying again", container, error)
                await asyncio.sleep(RETRY_AFTER)

    async def _end_rest(self, container: ContainerId, note: BundleNote) -> None:
        try:
            await OURS.run(self._job(container), self._signals.kill_all, note.cgroup)
            runtime = self._env.runtime_of(note.handler)
            if runtime.stand_in:
                argv = runtime.kill(container, signal.SIGKILL, everyone=True)
                await run(argv, timeout=self._env.settings.verb_timeout, options=RunOptions(owner=container))
        except OSError as error:
            _log.warning("ending what container %s left behind: %s", container, error)

    def _job(self, container: ContainerId) -> Job:
        return Job(f"looking at the exit of container {container}", owner=container)

    def _on_file(self, container: ContainerId, note: BundleNote | None) -> Exit | None:
        try:
            with open(self._env.paths.exit_file(container), "rb") as file:
                code = decode_exit(file.read(64))
                at = os.fstat(file.fileno()).st_mtime_ns
        except (FileNotFoundError, ValueError):
            return None
        if note is not None and note.pod and self._env.runtime_of(note.handler).stand_in:
            # All containers of the pod are in the sandbox's cgroup, and end with it.
            sandbox = self._env.names.below(os.path.dirname(note.cgroup), note.pod)
            note = replace(note, cgroup=sandbox) if code == KILLED_CODE else None
        return self._endings.exit_of(container, note, code, at)
