"""Logs of containers, copied from the Engine into the CRI's format, and resumed where they were.

One copy for each container that keeps a log, from its start until the Engine has no more of it. While the
Engine or the daemon is away nothing is lost: the Engine's own copy has it, within `log_size` and `log_files`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from crib.backends.docker.api import EngineCall, EngineLost
from crib.backends.docker.environment import DockerEnvironment
from crib.backends.docker.known import KnownContainers
from crib.backends.docker.log_positions import LogBatch, LogPosition, LogStart, Resumption
from crib.backends.docker.nouns import engine_name
from crib.backends.streams.log_files import LogFile
from crib.backends.streams.logs import LOG_TIME, at_rest
from crib.model.container import ContainerRecord
from crib.model.errors import CribError, NotFound
from crib.model.ids import ContainerId
from crib.tasks.keeper import HANDS
from crib.wire.docker_streams import LogMessage, LogMessages

_log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds until a log that broke off is asked for again."""
DRAIN_TIME = 5.0
"""Seconds after a container's end in which all that it wrote must have come from the Engine."""
_FILE = "log.json"


class LogCopy:
    """Of one container."""

    def __init__(
        self, environment: DockerEnvironment, containers: KnownContainers, record: ContainerRecord
    ) -> None:
        self.record = record
        self.log = LogFile(record)
        self._env = environment
        self._containers = containers
        self._position = LogPosition()
        self._path = f"{environment.paths.container(record.id)}/{_FILE}"
        self._gate = asyncio.Lock()
        """Held while something is written."""
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._is_released = False

    def begin(self) -> None:
        """Copy what there is, and what comes. Safe to repeat."""
        if self._task is None:
            self._task = HANDS.part("copying a log", self._copy(), self.record.id)

    @property
    def has_ended(self) -> bool:
        """Nothing more comes."""
        return self._task is not None and self._task.done()

    def at_rest(self, what: str) -> AbstractAsyncContextManager[None]:
        """While this lasts nothing is written. Overdue when the log does not take what was read."""
        return at_rest(self._gate, what, self.record.log_path)

    async def drain(self) -> None:
        """The container has ended: returns when all is in the log, or after a bound."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=DRAIN_TIME)

    async def release(self) -> None:
        """Let go. A write that is under way ends by itself."""
        self._is_released = True
        if self._task is not None:
            self._task.cancel()
        if tasks := [task for task in (self._task, self._writing) if task is not None]:
            await asyncio.wait(tasks, timeout=LOG_TIME)
        await self.log.close()

    async def _copy(self) -> None:
        """Until the Engine has no more, and the container has ended."""
        start = LogStart(self._path)
        await self.log.finish(start)
        self._position = start.position
        while not self._is_released:
            try:
                found = await self._containers.find(self.record.id)
                if found is None:
                    return
                # What is followed ends with the container, perhaps before its last lines: then once more.
                await self._follow(follow=not found.has_ended)
                if found.has_ended:
                    return
            except NotFound:
                return
            except (CribError, ValueError) as error:
                if not isinstance(error, EngineLost):  # or the handler says so itself, once for all
                    _log.warning("the log of container %s is asked for again: %s", self.record.id, error)
                await asyncio.sleep(RETRY_AFTER)

    async def _follow(self, *, follow: bool) -> None:
        query = {
            "stdout": "1",
            "stderr": "1",
            "timestamps": "1",
            "follow": "1" if follow else "0",
            "since": self._position.query,
        }
        path = f"/containers/{engine_name(self.record.id)}/logs"
        call = EngineCall(f"the log of container {self.record.id}", "GET", path, query)
        messages, resumption = LogMessages(terminal=self.record.config.tty), Resumption(self._position)
        async with contextlib.aclosing(self._env.api.stream(call)) as pieces:
            async for piece in pieces:
                await self._append(messages.receive(piece), resumption)
        if not follow:
            await self._append(messages.last(), resumption)

    async def _append(self, messages: Iterable[LogMessage], resumption: Resumption) -> None:
        fresh = tuple(filter(resumption.is_new, messages))
        if not fresh:
            return
        async with self._gate:
            batch = LogBatch(self._path, self._position, fresh)
            self._position = batch.after
            writing = self.log.append(batch, lambda: None)
            # Its own task, as a write that has begun is not cut off when the copy is.
            self._writing = HANDS.part("a write to a log", writing, self.record.id)
            await asyncio.shield(self._writing)


class LogCopies:
    """Of one handler."""

    def __init__(self, environment: DockerEnvironment, containers: KnownContainers) -> None:
        self._env = environment
        self._containers = containers
        self._copies: dict[ContainerId, LogCopy] = {}

    def of(self, container: ContainerId) -> LogCopy | None:
        """None of a container that is not known, or keeps no log."""
        return self._copies.get(container)

    async def make_log(self, record: ContainerRecord) -> None:
        """Make the log. OSError for anything but a regular file (`Overdue`)."""
        if record.log_path:
            copy = LogCopy(self._env, self._containers, record)
            await copy.log.open()
            self._copies[record.id] = copy

    def begin(self, record: ContainerRecord) -> None:
        """Copy from now on. It has been started, maybe by an earlier daemon. Safe to repeat."""
        copy = self._copies.get(record.id)
        if copy is None and record.log_path:
            copy = self._copies[record.id] = LogCopy(self._env, self._containers, record)
        if copy is not None:
            copy.begin()

    async def drain(self, container: ContainerId) -> None:
        """The container has ended: returns when all is in its log, or after a bound."""
        if (copy := self._copies.get(container)) is not None:
            await copy.drain()

    async def release(self, container: ContainerId) -> None:
        """Let go of its log. Safe to repeat."""
        if (copy := self._copies.pop(container, None)) is not None:
            await copy.release()

    async def close(self) -> None:
        """The daemon ends: the Engine keeps what comes."""
        for container in tuple(self._copies):
            await self.release(container)
