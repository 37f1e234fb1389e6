"""Attaching to a container: all who do share one connection to its monitor, which is read eagerly.

The monitor waits for whom it writes to, and so would the container. So what comes is taken at once, and kept
for each session within a bound (`streams/attach_sessions`).

The monitor ends the input of a container with `stdin_once` when a connection ends. Sessions without input
must not do that when they go: the connection stays then, until the container has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine

from crib.backends.failures import trying
from crib.backends.known_processes import is_alive
from crib.backends.oci.conmon import tell
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.exits import LOST_CODE
from crib.backends.streams.attach_sessions import AttachSession, LatestSizes
from crib.backends.streams.logs import OpenLog
from crib.host.pidfds import open_pidfd, wait_pidfd
from crib.host.streams import Sink
from crib.model.container import ContainerRecord, Exit
from crib.model.errors import Unavailable, WrongState
from crib.model.ids import ContainerId
from crib.model.streams import AttachRequest, TerminalSize
from crib.tasks.keeper import HANDS
from crib.wire.conmon import (
    ATTACH_SOCKET,
    MAX_INPUT,
    MAX_OUTPUT,
    OUTPUT_STREAMS,
    WINDOW_FIFO,
    window_size,
)

_log = logging.getLogger(__name__)

_PACKETS = 64
"""Packets that are taken before the loop's others get their turn."""
_EXIT_TIME = 10.0
_SETTLE_TIME = 0.002
_SETTLE_TRIES = 10


class _Hub:
    """The connection to one container's monitor, and who shares it."""

    def __init__(
        self,
        record: ContainerRecord,
        bundle: str,
        exit_code: Callable[[ContainerRecord], Coroutine[object, object, int]],
        gone: Callable[[ContainerId], None],
    ) -> None:
        self.record = record
        self.what = f"attach to container {record.id}"
        self._bundle = bundle
        self._learn_code = exit_code
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._sessions: set[AttachSession] = set()
        self._holds_input = record.config.stdin and record.config.stdin_once
        self._code: asyncio.Future[int] | None = None
        self._sizes = LatestSizes(record.id, self._resize)
        self._view = memoryview(bytearray(MAX_OUTPUT))
        self._socket = _connect(bundle)
        self._sink = Sink(self._socket.fileno(), owned=False)
        self._sending = asyncio.Lock()
        self._loop.add_reader(self._socket, self.receive)

    def join(self, session: AttachSession) -> None:
        """From now on it gets what comes."""
        self._sessions.add(session)

    def leave(self, session: AttachSession) -> None:
        """Safe to repeat."""
        self._sessions.discard(session)
        if not self._sessions and not self._holds_input:
            self._close()

    def receive(self) -> None:
        """Take what is there, and hand it out."""
        for _packet in range(_PACKETS):
            if self._socket.fileno() < 0:
                return
            try:
                size = self._socket.recv_into(self._view)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            if size == 0:
                self._end()
                return
            stream, data = OUTPUT_STREAMS.get(self._view[0], ""), bytes(self._view[1:size])
            for session in tuple(self._sessions):
                session.take(stream, data)

    async def send(self, data: bytes) -> None:
        """To the container's input, one writer after another; ConnectionError when it takes no more."""
        async with self._sending:
            view = memoryview(data)
            while view:
                await self._sink.write(view[:MAX_INPUT])
                view = view[MAX_INPUT:]

    def end_input(self) -> None:
        """The container reads an end, for good. Output still comes."""
        if self._holds_input:
            self._holds_input = False
            self._sink.release()
            with contextlib.suppress(OSError):  # the container has ended
                self._socket.shutdown(socket.SHUT_WR)

    def resize(self, size: TerminalSize) -> None:
        self._sizes.put(size)

    async def exit_code(self) -> int:
        """Once the container has ended; Unavailable when nobody watched it any more by then."""
        if self._code is None:
            raise Unavailable(f"{self.what}: the session is closed")
        return await asyncio.shield(self._code)

    async def _resize(self, size: TerminalSize) -> None:
        with contextlib.suppress(OSError):  # a terminal of the wrong size is no reason to end
            await tell(self._bundle, window_size(size.width, size.height), WINDOW_FIFO)

    def _end(self) -> None:
        """The monitor has closed: all output has come, and its exit file is next."""
        if self._sessions:
            self._code = HANDS.part("exit code", self._learn_code(self.record), self.record.id)
        self._close()
        for session in self._sessions:
            session.end()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._sink.release()
            self._socket.close()
            self._gone(self.record.id)


class Attachments:
    """Who is attached to which container."""

    def __init__(
        self, environment: OciEnvironment, read_exit: Callable[[ContainerId], Awaitable[Exit | None]]
    ) -> None:
        self._env = environment
        self._read_exit = read_exit
        self._hubs: dict[ContainerId, _Hub] = {}

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> AttachSession:
        """See Handler.attach."""
        with trying(f"attach to container {record.id}"):
            hub = self._hub(record)
            session = AttachSession(hub, wanted)
            hub.join(session)
            try:
                if self._env.settings.streaming.attach_replay > 0 and record.log_path:
                    await self._replay(hub, session)
            except BaseException:
                await session.close()
                raise
        return session

    def _hub(self, record: ContainerRecord) -> _Hub:
        hub = self._hubs.get(record.id)
        if hub is None:
            bundle = self._env.paths.container(record.id)
            try:
                hub = _Hub(record, bundle, self._exit_code, self._forget)
            except (FileNotFoundError, ConnectionRefusedError):
                raise WrongState(f"attach to container {record.id}: it has ended") from None
            self._hubs[record.id] = hub
        return hub

    def _forget(self, container: ContainerId) -> None:
        del self._hubs[container]

    async def _replay(self, hub: _Hub, session: AttachSession) -> None:
        """Begin with what the log has and did not come by the connection.

        The monitor writes to the log first, then to us: what it has done in between is found when nothing
        moves for a moment. If it never rests, some output may come twice or be left out where both meet.
        """
        log = OpenLog(hub.record.log_path, hub.record.sandbox_id)
        try:
            await log.open()
            for _try in range(_SETTLE_TRIES):
                size = await log.size()
                hub.receive()
                known = session.seen.copy()
                await asyncio.sleep(_SETTLE_TIME)
                hub.receive()
                if known == session.seen and size == await log.size():
                    break
            most = self._env.settings.streaming.attach_replay
            session.begin_with(await log.latest(size, most, known))
        except FileNotFoundError:  # just being rotated
            return
        except OSError as error:
            _log.warning("%s: nothing from before, as its log cannot be read: %s", hub.what, error)
        finally:
            await log.close()

    async def _exit_code(self, record: ContainerRecord) -> int:
        """The monitor, which has closed its socket, files the exit code and ends."""
        if record.monitor is not None and is_alive(record.monitor):
            with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as stack:
                pidfd = open_pidfd(record.monitor.pid)
                stack.callback(os.close, pidfd)
                await wait_pidfd(pidfd, _EXIT_TIME)
        with trying(f"attach to container {record.id}"):
            found = await self._read_exit(record.id)
        return LOST_CODE if found is None else found.code


def _connect(bundle: str) -> socket.socket:
    directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            # A socket's path has at most 107 bytes, a bundle's may have more.
            connected.connect(f"/proc/self/fd/{directory}/{ATTACH_SOCKET}")
        except BaseException:
            connected.close()
            raise
    finally:
        os.close(directory)
    return connected
