"""The shim as it serves: one pod, on one socket, until it is told to end or its VM has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from crib.host import libc
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.server import Services, TtrpcServer
from crib.vm.shim import sandbox_service, task_service
from crib.vm.shim.agent import GUEST
from crib.vm.shim.events import Publisher
from crib.vm.shim.launch import EarlyVm
from crib.vm.shim.pod import VmPod
from crib.vm.shim.sandbox_service import VmSandboxService
from crib.vm.shim.task_service import VmTaskService

MOST_CALLS = 8192
"""Of one client at a time: each waits for the end of every process."""
LINGER = 2.0
"""Seconds for the last answers: of those who hear that all containers have ended."""
SHUTDOWN_WAIT = 30.0
"""Seconds between the end of a VM that was asked for, and that of its shim."""
CLOSE_TIME = 2.0
_LAST_LOOK = 0.05
_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """Which pod, where it is, and what the start was told."""

    instance: str
    bundle: str
    path: str
    """Of the socket."""
    namespace: str
    events: str
    """Address that takes events."""
    given: bytes
    debug: bool
    ready: int
    """A pipe that gets a byte when calls are answered."""


def serve(listening: socket.socket, serving: Serving, early: EarlyVm) -> None:
    """Ends with the shim. Its programs end with it."""
    _log_to_stderr(serving.debug)
    libc.use_one_heap()
    asyncio.run(_Shim(serving, early).run(listening))
    # Without what an interpreter does at its end: threads that wait for a file system would hold it up.
    os._exit(0)


class _Shim:
    def __init__(self, serving: Serving, early: EarlyVm) -> None:
        self._serving = serving
        self._early = early
        self._servers: set[TtrpcServer] = set()

    async def run(self, listening: socket.socket) -> None:
        serving, keeper, over = self._serving, TaskKeeper(), asyncio.Event()
        pod = VmPod(self._early, keeper, Publisher(serving.events, serving.namespace, keeper))
        services = self._services(pod, keeper, over.set)
        loop = asyncio.get_running_loop()

        def accepted(carrier: SocketCarrier) -> None:
            server = TtrpcServer(carrier, services, keeper.part, MOST_CALLS)
            self._servers.add(server)
            keeper.part("a connection", self._until_gone(server))

        server = await loop.create_unix_server(lambda: _Accepted(accepted), sock=listening)
        try:
            os.write(serving.ready, b"+")
        except BrokenPipeError:  # who started it has gone, and nobody knows of it
            over.set()
        os.close(serving.ready)
        asked = keeper.part("the end of the shim", over.wait())
        ended = keeper.part("the end of the VM", pod.gone())
        await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
        if pod.was_stopped:  # who asked for that asks for more
            await asyncio.wait([asked], timeout=SHUTDOWN_WAIT)
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(serving.path)
        await pod.stop(0)
        await self._answered()
        await keeper.close(CLOSE_TIME)

    def _services(self, pod: VmPod, keeper: TaskKeeper, end: Callable[[], None]) -> Services:
        sandbox = VmSandboxService(pod, keeper, self._serving.given, end)
        tasks = VmTaskService(pod, keeper, task_service.VERSION, end).handlers()
        return {
            sandbox_service.SERVICE: sandbox.handlers(),
            GUEST: sandbox.guest_handlers(),
            **dict.fromkeys(task_service.SERVICES, tasks),
        }

    async def _until_gone(self, server: TtrpcServer) -> None:
        await server.gone()
        self._servers.discard(server)

    async def _answered(self) -> None:
        """Until no call is under way, or the time is over. Nothing tells of it; it is looked at again."""
        for _ in range(round(LINGER / _LAST_LOOK)):
            await asyncio.sleep(_LAST_LOOK)
            if not any(server.running for server in self._servers):
                return


class _Accepted(SocketCarrier):
    """A connection, which is served as soon as it is made."""

    def __init__(self, accepted: Callable[[SocketCarrier], None]) -> None:
        super().__init__()
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._accepted(self)


class _Logrus(logging.Formatter):
    """Lines as containerd's shims write them."""

    def format(self, record: logging.LogRecord) -> str:
        level = _LEVELS.get(record.levelno, "info")
        text = super().format(record).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f'time="{stamp}" level={level} msg="{text}"'


class _Handler(logging.Handler):
    """To standard error, which may be a fifo that nobody reads: then lines are left out."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{self.format(record)}\n".encode())


def _log_to_stderr(debug: bool) -> None:
    handler = _Handler()
    handler.setFormatter(_Logrus())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG if debug else logging.INFO)
