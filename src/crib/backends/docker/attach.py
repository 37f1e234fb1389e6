"""Attaching to a container: each client has a connection of its own to the Engine, which keeps them apart."""

from __future__ import annotations

import contextlib

from crib.backends.docker.api import EngineCall
from crib.backends.docker.exits import DockerExits
from crib.backends.docker.hijacked import Hijacked
from crib.backends.docker.nouns import engine_name
from crib.backends.docker.tools import DockerTools
from crib.backends.streams.attach_sessions import AttachSession, LatestSizes
from crib.model.container import ContainerRecord
from crib.model.errors import CribError, NotFound, Unavailable, WrongState
from crib.model.streams import AttachRequest, TerminalSize
from crib.tasks.keeper import HANDS

EXIT_TIME = 30.0
"""Seconds from the end of a container's streams until its exit is known."""


class _Place:
    """See AttachPoint, of one client."""

    def __init__(self, tools: DockerTools, exits: DockerExits, record: ContainerRecord) -> None:
        self.record = record
        self.what = f"attach to container {record.id}"
        self._api = tools.environment.api
        self._exits = exits
        self._sizes = LatestSizes(record.id, self._resize)
        self._pipe: Hijacked | None = None
        self._is_over = False

    def join(self, session: AttachSession, pipe: Hijacked) -> None:
        """From now on it gets what comes."""
        self._pipe = pipe

        def take(stream: str, data: bytes) -> None:
            session.take(stream, data)  # which bounds what waits for its client
            pipe.give(len(data))

        pipe.begin(take)
        HANDS.part("end of an attached client", self._watch(session, pipe), self.record.id)

    async def send(self, data: bytes) -> None:
        if self._pipe is None:
            raise BrokenPipeError("it is closed")
        await self._pipe.write(data)

    def end_input(self) -> None:
        if self._pipe is not None:
            self._pipe.end_input()

    def resize(self, size: TerminalSize) -> None:
        self._sizes.put(size)

    async def exit_code(self) -> int:
        if self._is_over:
            raise Unavailable(f"{self.what}: the session is closed")
        return (await self._exits.of(self.record.id)).code

    def leave(self, session: AttachSession) -> None:
        self._is_over = True
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    async def _watch(self, session: AttachSession, pipe: Hijacked) -> None:
        """Its streams end with the container's, or with the Engine."""
        await pipe.ended.wait()
        session.end()

    async def _resize(self, size: TerminalSize) -> None:
        path = f"/containers/{engine_name(self.record.id)}/resize"
        query = {"h": str(size.height), "w": str(size.width)}
        with contextlib.suppress(CribError):  # a terminal of the wrong size is no reason to end
            await self._api.ask(EngineCall(self.what, "POST", path, query))


class DockerClients:
    """Of one handler."""

    def __init__(self, tools: DockerTools, exits: DockerExits) -> None:
        self._tools = tools
        self._exits = exits

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> AttachSession:
        """See ContainerStreams.attach."""
        place = _Place(self._tools, self._exits, record)
        found = await self._tools.containers.find(record.id)
        if found is None or found.has_ended:
            raise WrongState(f"{place.what}: it has ended")
        query = {
            "stream": "1",
            "stdin": "1" if wanted.stdin and record.config.stdin else "0",
            "stdout": "1" if wanted.stdout else "0",
            "stderr": "1" if wanted.stderr and not record.config.tty else "0",
        }
        call = EngineCall(place.what, "POST", f"/containers/{engine_name(record.id)}/attach", query)
        session = AttachSession(place, wanted)
        try:
            pipe = await self._tools.environment.api.hijack(call, terminal=record.config.tty)
        except NotFound as error:
            raise WrongState(f"{place.what}: it has ended") from error
        place.join(session, pipe)
        return session
