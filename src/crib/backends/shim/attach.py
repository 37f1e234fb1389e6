"""Attaching to a container: its output comes by us anyhow, and all who are attached share its input."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from weakref import WeakValueDictionary

from crib.backends.failures import trying
from crib.backends.shim.container_io import TaskServices
from crib.backends.shim.first_processes import FirstProcesses
from crib.backends.shim.inputs import Input
from crib.backends.shim.outputs import Outputs
from crib.backends.streams.attach_sessions import AttachSession, LatestSizes
from crib.backends.streams.logs import OpenLog
from crib.model.container import ContainerRecord
from crib.model.errors import CribError, Unavailable, WrongState
from crib.model.ids import ContainerId
from crib.model.settings import Settings
from crib.model.streams import AttachRequest, TerminalSize
from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)


class _Place:
    """See AttachPoint, of one container while somebody is attached to it."""

    def __init__(
        self, record: ContainerRecord, outputs: Outputs, own_input: Input | None, services: TaskServices
    ) -> None:
        self.record = record
        self.what = f"attach to container {record.id}"
        self.outputs = outputs
        self._input = own_input
        self._services = services
        self._sizes = LatestSizes(record.id, self._resize)
        self._code: asyncio.Task[int] | None = None

    def join(self, session: AttachSession) -> None:
        """From now on it gets what comes."""
        self.outputs.sessions.add(session)
        if self._code is None:
            # At once: when all output has come the shim may not know the container any more.
            self._code = HANDS.part("exit code", self._wait(), self.record.id)
        if self._input is not None and session.stdin is not None and self.record.config.stdin_once:
            self._input.note_use()

    def leave(self, session: AttachSession) -> None:
        self.outputs.sessions.discard(session)
        if not self.outputs.sessions and self._code is not None:
            self._code.cancel()
            self._code = None

    async def send(self, data: bytes) -> None:
        if self._input is None:
            raise BrokenPipeError("the container's input has ended")
        await self._input.send(data)

    def end_input(self) -> None:
        if self._input is not None:
            self._input.end()

    def resize(self, size: TerminalSize) -> None:
        self._sizes.put(size)

    async def exit_code(self) -> int:
        if self._code is None:
            raise Unavailable(f"{self.what}: the session is closed")
        try:
            return await asyncio.shield(self._code)
        except CribError as error:
            raise Unavailable(f"{self.what}: its exit code is not known: {error}") from error

    async def _resize(self, size: TerminalSize) -> None:
        with contextlib.suppress(CribError):  # a terminal of the wrong size is no reason to end
            service = await self._services.of(self.record.id)
            await service.resize_pty(self.record.id, size.width, size.height)

    async def _wait(self) -> int:
        service = await self._services.of(self.record.id)
        return (await service.wait(self.record.id)).code


class AttachedClients:
    """Who is attached to which container."""

    def __init__(self, first: FirstProcesses, services: TaskServices) -> None:
        self._first = first
        self._services = services
        self._places: WeakValueDictionary[ContainerId, _Place] = WeakValueDictionary()
        """Held by their sessions."""

    async def attach(
        self, record: ContainerRecord, wanted: AttachRequest, settings: Settings
    ) -> AttachSession:
        """See ContainerStreams.attach."""
        place = self._place(record)
        session = AttachSession(place, wanted)
        replay = settings.streaming.attach_replay
        with trying(place.what):
            if replay > 0 and record.log_path:
                await self._join_with_replay(place, session, replay)
            else:
                place.join(session)
        return session

    def _place(self, record: ContainerRecord) -> _Place:
        outputs = self._first.outputs(record.id)
        if outputs is None or outputs.has_ended:
            raise WrongState(f"attach to container {record.id}: it has ended")
        known = self._places.get(record.id)
        if known is None or known.outputs is not outputs:
            known = _Place(record, outputs, self._first.input(record.id), self._services)
            self._places[record.id] = known
        return known

    async def _join_with_replay(self, place: _Place, session: AttachSession, most: int) -> None:
        """Begin with what the log has, and go on with the next read: nothing twice, nothing left out."""
        log = OpenLog(place.record.log_path, place.record.sandbox_id)
        try:
            async with place.outputs.at_rest("reading"):
                place.join(session)
                await log.open()
                session.begin_with(await log.latest(await log.size(), most, {}))
        except FileNotFoundError:  # just being rotated
            return
        except OSError as error:
            place.join(session)
            _log.warning("%s: nothing from before, as its log cannot be read: %s", place.what, error)
        finally:
            await log.close()
