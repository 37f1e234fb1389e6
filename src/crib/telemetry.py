"""What the daemon tells programs of itself, wired: metrics and traces.

None of it keeps the daemon from starting or serving: what cannot be had is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Self

from crib import __version__
from crib.api.server import Server, group_id
from crib.engine.node import Node
from crib.host.threads import OURS, Job
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
        self._metrics = MetricsServer(partial(read, sources), _in_thread)
        self._socket = ""

    async def __aenter__(self) -> Self:
        """Listen and trace as the settings say."""
        if self._spans is not None:
            self._spans.start()
            rate = self._settings.tracing.sampling_rate_per_million
            self._door.tracer = Tracer(self._spans.put, rate)
        if place := self._settings.metrics_place:
            await self._listen(place)
        return self

    async def _listen(self, place: str) -> None:
        try:
            port = await self._metrics.listen(place)
            if not port:
                self._socket = place.removeprefix("unix:")
                os.chmod(self._socket, 0o660)  # whom it was made for alone until here (PRIVATE_UMASK)
                os.chown(self._socket, -1, group_id(self._settings.socket_group))
        except OSError as error:
            _log.error("metrics: cannot listen on %s: %s", place, error)
        else:
            _log.info("metrics at %s", place)

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, and send the last spans."""
        await self._metrics.close()
        if self._spans is not None:
            with contextlib.suppress(TimeoutError):  # the collector has not taken them
                job = Job("sending the last spans", limit=2 * LAST_SPANS)
                await OURS.run(job, self._spans.close, LAST_SPANS)
        if self._socket:
            with contextlib.suppress(OSError):  # it may be on a file system that does not answer
                await OURS.run(f"removing {self._socket}", os.unlink, self._socket)


async def _in_thread(what: str, work: Callable[[], bytes]) -> bytes:
    return await OURS.run(Job(what, limit=SECONDS), work)
