"""The events that shims send, on a socket of ours. Only a lack of memory is used: what ends is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from crib.host.threads import OURS
from crib.model.ids import ContainerId
from crib.stubs.shim.events_pb2 import TaskOOM
from crib.stubs.shim.events_service_pb2 import ForwardRequest
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.messages import typed
from crib.ttrpc.server import Services, TtrpcServer

_log = logging.getLogger(__name__)

OOM_TOPIC = "/tasks/oom"
SERVICES_NAMES = ("containerd.services.events.ttrpc.v1.Events", "containerd.services.events.v1.Events")
MOST_REMEMBERED = 4096
"""Containers that ran out of memory and have not been removed."""


class EventsServer:
    """Takes events of all of a handler's shims."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._keeper = TaskKeeper()
        self._server: asyncio.Server | None = None
        self._carriers: set[SocketCarrier] = set()
        self._killed: OrderedDict[ContainerId, None] = OrderedDict()
        forward = typed(ForwardRequest, self._forward)
        self._services: Services = {name: {"Forward": forward} for name in SERVICES_NAMES}

    async def open(self) -> None:
        """Listen. OSError."""
        await OURS.run("removing the socket for shims' events", _unlink, self._path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Accepted(self._serve), self._path)
        await OURS.run("closing the socket for shims' events to others", os.chmod, self._path, 0o600)

    def was_killed(self, container: ContainerId) -> bool:
        """Whether the kernel killed in this container for lack of memory."""
        return container in self._killed

    def forget(self, container: ContainerId) -> None:
        """It is removed."""
        self._killed.pop(container, None)

    def close(self) -> None:
        """Safe to repeat."""
        if self._server is not None:
            self._server.close()
        for carrier in tuple(self._carriers):
            carrier.close()
        self._keeper.cancel()

    def _serve(self, carrier: SocketCarrier) -> None:
        served = TtrpcServer(carrier, self._services, self._keeper.part)
        self._carriers.add(carrier)

        async def until_gone() -> None:
            await served.gone()
            self._carriers.discard(carrier)

        self._keeper.part("a shim's events", until_gone())

    async def _forward(self, request: ForwardRequest) -> Empty:
        envelope = request.envelope
        if envelope.topic == OOM_TOPIC:
            with contextlib.suppress(DecodeError):
                container = ContainerId(TaskOOM.FromString(envelope.event.value).container_id)
                self._killed[container] = None
                if len(self._killed) > MOST_REMEMBERED:
                    self._killed.popitem(last=False)
        return Empty()


class _Accepted(SocketCarrier):
    """A shim's connection, which is served as soon as it is made."""

    def __init__(self, serve: Callable[[SocketCarrier], None]) -> None:
        super().__init__()
        self._serve = serve

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._serve(self)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
