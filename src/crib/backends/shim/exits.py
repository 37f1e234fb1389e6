"""Exits of containers as their shims tell them: a call waits for each, and is made again when it breaks off.

An exit goes to a file first, then it is told, and then the shim may forget the container. So none is lost
with a shim or a daemon: the file, or else the shim, still has it. With a shim that dies its containers do, as
nobody would tell how they go on: what is left of them is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from dataclasses import replace

from crib.backends.bundle.bundles import BundleNote
from crib.backends.pods.filed_exits import FiledExits
from crib.backends.shim.nouns import Ended, ShimLost
from crib.backends.shim.tools import ShimTools
from crib.backends.streams.refusals import with_refusal
from crib.host.threads import OURS
from crib.model.container import Exit
from crib.model.errors import CribError, NotFound
from crib.model.ids import ContainerId
from crib.tasks.keeper import TaskKeeper

_log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds until an exit that could not be looked at is tried again: nobody else reports it."""
FORGET_TIME = 30.0
"""Seconds that a shim may take to forget a container that has ended."""
_TRIES = 3
_KILL_TIME = 10.0
WHY_LOST = "its shim died, and what it ran was killed: its own exit code is not known"


class ShimExits(FiledExits):
    """Of one handler."""

    def __init__(self, tools: ShimTools) -> None:
        super().__init__(tools.environment, tools.bundles)
        self._tools = tools
        self._keeper = TaskKeeper()
        self._followers: dict[ContainerId, asyncio.Task[None]] = {}
        self._leaving: set[ContainerId] = set()
        """Those that have ended, and whose shim has not forgotten them yet."""

    def watch(self, container: ContainerId) -> None:
        """Tell when it ends; from its create on, or from the first look at it after a start."""
        if container not in self._followers:
            task = self._keeper.part("waiting for an exit", self._follow(container), container)
            self._followers[container] = task
            task.add_done_callback(lambda _done: self._followers.pop(container, None))

    def watches(self, container: ContainerId) -> bool:
        """Whether its end will be told."""
        return container in self._followers

    async def forget(self, container: ContainerId) -> None:
        """It is about to be removed: its end is no news, and nothing of ours is at work on it any more."""
        task = self._followers.pop(container, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def put_away(self, pod: str) -> None:
        """Wait until the shim has forgotten the pod's containers that have ended, or its time is over."""
        known = self._tools.bundles.known
        leaving = [one for one in self._leaving if (note := known(one)) is not None and note.pod == pod]
        if tasks := [self._followers[one] for one in leaving if one in self._followers]:
            await asyncio.wait(tasks, timeout=FORGET_TIME)

    def close(self) -> None:
        """Watch nothing any more."""
        self._keeper.cancel()

    async def settle(self, container: ContainerId, ended: Ended) -> Exit:
        """The exit of a container that its shim says has ended; on file from now on. Safe to repeat."""
        async with self._lock(container):
            if (filed := await self.read(container)) is not None:
                return filed
            tools = self._tools
            note = await tools.bundles.note(container)
            if note is not None and note.shared_pids:
                # Nobody else ends what its first process left behind in a pid namespace that stays.
                await OURS.run(self._job(container), tools.signals.kill_all, note.cgroup)
            await tools.io.drain(container)
            found = await OURS.run(self._job(container), self._exit_of, container, note, ended)
            return await self._filed(container, await with_refusal(found, note))

    async def lose(self, container: ContainerId) -> Exit:
        """The exit of a container whose shim has gone: all of it is ended. On file from now on."""
        async with self._lock(container):
            if (filed := await self.read(container)) is not None:
                return filed
            tools = self._tools
            ended = await tools.shims.clear_up(container)
            note = await tools.bundles.note(container)
            if note is not None:
                await tools.environment.cgroups.kill(note.cgroup, _KILL_TIME)
            await tools.io.drain(container)
            at = ended.at or time.time_ns()
            return await self._filed(container, Exit(container, ended.code, at, lost=True, why=WHY_LOST))

    async def _follow(self, container: ContainerId) -> None:
        while True:
            try:
                exit_ = await self._next(container)
                break
            except NotFound:  # it was deleted
                return
            except (CribError, OSError) as error:
                _log.warning("waiting for the exit of container %s: %s; trying again", container, error)
                await asyncio.sleep(RETRY_AFTER)
        self._leaving.add(container)
        try:
            self._tell(exit_)
            if not exit_.lost:
                await self._forget_in_shim(container)
        finally:
            self._leaving.discard(container)

    async def _next(self, container: ContainerId) -> Exit:
        """Wait for it. Over again with a shim whose connection has ended, and that is still there."""
        for tries in itertools.count():
            shim = await self._tools.services.shim_of(container)
            if shim is None:
                break
            try:
                ended = await shim.tasks.wait(container)
            except ShimLost:
                if tries >= _TRIES:  # it takes connections and ends them
                    await asyncio.sleep(RETRY_AFTER)
                continue
            return await self.settle(container, ended)
        return await self.lose(container)

    async def _forget_in_shim(self, container: ContainerId) -> None:
        """What the runtime keeps of it goes already: its pod's shim ends only when it has no container."""
        try:
            async with asyncio.timeout(FORGET_TIME):
                await (await self._tools.services.of(container)).delete(container)
        except NotFound:
            pass
        except (CribError, OSError) as error:  # its delete tries again, and does without
            _log.warning("the shim of container %s does not forget it: %s", container, error)

    def _exit_of(self, container: ContainerId, note: BundleNote | None, ended: Ended) -> Exit:
        tools, at = self._tools, ended.at if ended.at > 0 else time.time_ns()
        if tools.environment.facts.own_kernel:
            return Exit(container, ended.code, at, oom_killed=tools.events.was_killed(container))
        found = tools.endings.exit_of(container, note, ended.code, at)
        if not found.oom_killed and tools.events.was_killed(container):
            return replace(found, oom_killed=True)
        return found
