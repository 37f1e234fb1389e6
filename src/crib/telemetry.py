"""What the daemon tells programs of itself, wired: metrics and traces.

None of it keeps the daemon from starting or serving: what cannot be had is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Self

from crib import __version__
from crib.api.server import Server, group_id
from crib.engine.node import Node
from crib.host.threads import OURS, Job
from crib.model.errors import Broken
from crib.model.settings import Settings
from crib.observe import logs
from crib.observe.families import read
from crib.observe.metrics_server import SECONDS, MetricsServer
from crib.observe.reading import Sources
from crib.observe.tracing import SpanQueue
from crib.streaming.server import StreamServer
from crib.tasks.spans import Tracer

_log = logging.getLogger(__name__)

LAST_SPANS = 1.0
"""Seconds to send what is left at the end."""


class Telemetry:
    """Of one daemon: a block around its calls, in which they are counted and traced."""

    def __init__(self, settings: Settings, node: Node, server: Server, streams: StreamServer) -> None:
        self._settings = settings
        self._door = server.door
        tracing = settings.tracing
        self._spans = SpanQueue(tracing.endpoint, __version__) if tracing.endpoint else None
        sources = Sources(
            node=node,
            version=__version__,
            is_ready=lambda: not server.gate.reason,
            calls=server.door.figures,
            streams=streams.begun,
            connections=lambda: streams.connections,
            log=logs.FIGURES,
            spans=lambda: {} if self._spans is None else self._spans.counts,
        )
        self._read = partial(read, sources)
        self._place: _MetricsPlace | None = None

    async def __aenter__(self) -> Self:
        """Listen and trace as the settings say."""
        if self._spans is not None:
            self._spans.start()
            rate = self._settings.tracing.sampling_rate_per_million
            self._door.tracer = Tracer(self._spans.put, rate)
        try:
            self._place = await self._opened(self._settings)
        except Broken as error:
            _log.error("%s", error)
        return self

    async def make_ready(self, settings: Settings) -> Callable[[bool], Awaitable[None]]:
        """Listen where other settings say; Broken. The answer is to be called with whether they hold."""
        is_there = self._place is not None or not settings.metrics_place
        place = self._place
        if not is_there or settings.metrics_place != self._settings.metrics_place:
            place = await self._opened(settings)

        async def finish(holds: bool) -> None:
            left = place
            if holds:
                self._settings = settings
                self._place, left = place, self._place
            if left is not None and left is not self._place:
                await left.close()

        return finish

    async def _opened(self, settings: Settings) -> _MetricsPlace | None:
        if not settings.metrics_place:
            return None
        place = _MetricsPlace(settings.metrics_place, MetricsServer(self._read, _in_thread))
        await place.open(settings.socket_group)
        return place

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, and send the last spans."""
        if self._place is not None:
            await self._place.close()
        if self._spans is not None:
            with contextlib.suppress(TimeoutError):  # the collector has not taken them
                job = Job("sending the last spans", limit=2 * LAST_SPANS)
                await OURS.run(job, self._spans.close, LAST_SPANS)


class _MetricsPlace:
    """Where metrics are read."""

    def __init__(self, place: str, server: MetricsServer) -> None:
        self._place = place
        self._server = server
        self._socket = ""

    async def open(self, group: str) -> None:
        """Broken when it cannot be listened there."""
        try:
            port = await self._server.listen(self._place)
            if not port:
                self._socket = self._place.removeprefix("unix:")
                await OURS.run(f"opening {self._socket} to its group", _open_to, self._socket, group)
        except OSError as error:
            await self.close()
            raise Broken(f"metrics: cannot listen on {self._place}: {error}") from error
        _log.info("metrics at %s", self._place)

    async def close(self) -> None:
        await self._server.close()
        if self._socket:
            with contextlib.suppress(OSError):  # it may be on a file system that does not answer
                await OURS.run(f"removing {self._socket}", os.unlink, self._socket)


def _open_to(socket: str, group: str) -> None:
    """It is whom it was made for alone until here (PRIVATE_UMASK)."""
    os.chmod(socket, 0o660)
    os.chown(socket, -1, group_id(group))


async def _in_thread(what: str, work: Callable[[], bytes]) -> bytes:
    return await OURS.run(Job(what, limit=SECONDS), work)
