"""Exits of containers and of commands, as the Engine's events tell them, and as it says when it is asked.

Its events come on one connection. Whenever that is made, all containers are looked at once: so an exit is
told also if the Engine, or the daemon, was away when it happened. It goes to a file first, then it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crib.backends.bundle.bundles import BundleNote
from crib.backends.docker.api import EngineCall
from crib.backends.docker.nouns import LABEL_CONTAINER, LABEL_OWNER, EngineContainer
from crib.backends.docker.tools import DockerTools
from crib.backends.pods.filed_exits import FiledExits
from crib.backends.streams.refusals import with_refusal
from crib.host.threads import OURS
from crib.model.container import Exit
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.tasks.groups import all_of
from crib.tasks.keeper import TaskKeeper

_log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds until the Engine is asked again for its events."""
LOST = 255
WHY_LOST = "somebody removed it from the Engine: its exit code is not known"
KILLED = 137
_LONGEST_EVENT = 1 << 20
_EVENTS = ("die", "destroy", "exec_die")


class DockerExits(FiledExits):
    """Of one handler."""

    def __init__(self, tools: DockerTools) -> None:
        super().__init__(tools.environment, tools.bundles)
        self._tools = tools
        self._docker = tools.environment
        self._keeper = TaskKeeper()
        self._following: asyncio.Task[None] | None = None
        self._leaving: set[ContainerId] = set()
        """Those that are being removed: their end is no news."""
        self._ends: dict[ContainerId, asyncio.Future[Exit]] = {}
        self._commands: dict[str, asyncio.Future[int]] = {}
        """By the Engine's id, those that somebody waits for."""

    def open(self) -> None:
        """Listen to the Engine, as soon as it is there. Safe to repeat."""
        if self._following is None:
            self._following = self._keeper.part("the Engine's events", self._follow())

    def close(self) -> None:
        """Listen no more."""
        self._keeper.cancel()

    def leave(self, container: ContainerId) -> None:
        """It is about to be removed."""
        self._leaving.add(container)

    def left(self, container: ContainerId) -> None:
        """It is gone, or its removal has failed."""
        self._leaving.discard(container)
        if (waited := self._ends.pop(container, None)) is not None:
            waited.cancel()

    async def of(self, container: ContainerId) -> Exit:
        """Its exit, once it has ended."""
        waited = self._ends.setdefault(container, asyncio.get_running_loop().create_future())
        if (filed := await self.read(container)) is not None:
            return filed
        return await asyncio.shield(waited)

    def command(self, command: str) -> asyncio.Future[int]:
        """The exit code of a command in a container, by the Engine's id, if the Engine tells it."""
        return self._commands.setdefault(command, asyncio.get_running_loop().create_future())

    def forget_command(self, command: str) -> None:
        """Nobody waits for it any more."""
        if (waited := self._commands.pop(command, None)) is not None:
            waited.cancel()

    async def settle(self, container: ContainerId, found: EngineContainer) -> Exit:
        """The exit of a container that the Engine says has ended; on file and told. Safe to repeat."""
        async with self._lock(container):
            if (filed := await self.read(container)) is not None:
                return filed
            tools = self._tools
            note = await tools.bundles.note(container)
            if note is not None and note.shared_pids:
                # Nobody else ends what its first process left behind in a pid namespace that stays.
                await OURS.run(self._job(container), tools.signals.kill_all, note.cgroup)
            await tools.logs.drain(container)
            exit_ = await OURS.run(self._job(container), self._exit_of, container, note, found)
            return await self._file(container, await with_refusal(exit_, note))

    async def lose(self, container: ContainerId, code: int = LOST, why: str = WHY_LOST) -> Exit:
        """The exit of a container that the Engine does not know any more, or never ran."""
        async with self._lock(container):
            if (filed := await self.read(container)) is not None:
                return filed
            note = await self._tools.bundles.note(container)
            if note is not None:
                await self._docker.cgroups.kill(note.cgroup)
            return await self._file(container, Exit(container, code, time.time_ns(), lost=bool(why), why=why))

    async def _file(self, container: ContainerId, exit_: Exit) -> Exit:
        filed = await self._filed(container, exit_)
        self._tell(filed)
        if (waited := self._ends.pop(container, None)) is not None and not waited.done():
            waited.set_result(filed)
        return filed

    async def _follow(self) -> None:
        said = ""
        while True:
            try:
                await self._docker.link.require()
                said = ""
                await self._listen()
            except (CribError, OSError, ValueError) as error:
                if str(error) != said:  # once, however often it is tried
                    said = str(error)
                    _log.info("handler %s hears nothing of the Engine: %s", self._docker.facts.name, error)
            await asyncio.sleep(RETRY_AFTER)

    async def _listen(self) -> None:
        filters = {
            "type": ["container"],
            "label": [f"{LABEL_OWNER}={self._docker.owner}"],
            "event": list(_EVENTS),
        }
        call = EngineCall("the Engine's events", "GET", "/events", {"filters": filters})
        rest = b""
        async with contextlib.aclosing(self._docker.api.stream(call)) as pieces:
            looking = self._keeper.part("looking at all containers", self._look())
            try:
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    if len(rest) > _LONGEST_EVENT:
                        raise ValueError("an event of the Engine does not end")
                    for line in filter(None, lines):
                        self._take(json.loads(line))
            finally:
                looking.cancel()

    def _take(self, event: Mapping[str, Any]) -> None:
        action = str(event.get("Action") or "")
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        if action.startswith("exec_die"):
            waited = self._commands.get(str(attributes.get("execID") or ""))
            if waited is not None and not waited.done():
                waited.set_result(int(attributes.get("exitCode") or 0))
        elif name := attributes.get(LABEL_CONTAINER):
            self._keeper.part("the end of a container", self._ended(ContainerId(name)), name)

    async def _look(self) -> None:
        """Settle what has ended, or gone, while nobody listened."""
        listed = await self._tools.containers.containers()
        bundles = await OURS.run("looking for containers", self._made)
        over = [name for name, state in listed.items() if state in ("exited", "dead")]
        gone = [name for name in bundles if name not in listed]
        await all_of("ends of containers", (self._ended(ContainerId(name)) for name in {*over, *gone}))

    def _made(self) -> list[str]:
        """Those that this handler has had the Engine make. Blocks."""
        found = []
        for name in os.listdir(self._env.paths.containers):
            if os.path.exists(made_file(self._env.paths.container(ContainerId(name)))):
                note = self._bundles.read_note(ContainerId(name))
                if note is not None and self._env.owns(note.handler):
                    found.append(name)
        return found

    async def _ended(self, container: ContainerId) -> None:
        """Look at one of which something was told. It is looked at again whenever the connection is made."""
        if container in self._leaving:
            return
        try:
            found = await self._tools.containers.find(container)
            if container in self._leaving:
                return
            if found is None:
                await self.lose(container)
            elif found.has_ended:
                await self.settle(container, found)
        except (CribError, OSError) as error:
            _log.warning("the end of container %s: %s", container, error)

    def _exit_of(self, container: ContainerId, note: BundleNote | None, found: EngineContainer) -> Exit:
        at = found.finished_at or time.time_ns()
        if note is not None and self._env.cgroups.layout.mode == "v2":
            # The Engine has removed the container's own; what is above it has counted the same.
            note = replace(note, cgroup=os.path.dirname(note.cgroup))
        exit_ = self._tools.endings.exit_of(container, note, found.code, at)
        return replace(exit_, oom_killed=exit_.oom_killed or found.oom_killed)


def made_file(bundle: str) -> str:
    """In a container's bundle: the Engine has made it. Its content is the Engine's id."""
    return f"{bundle}/engine-id"
