"""The standard input of a container's first process, for all who are attached to it."""

from __future__ import annotations

import asyncio
import logging
import os

from crib.backends.shim.container_io import TaskServices
from crib.host.streams import Sink
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)

_USED = ".used"
"""Beside the fifo: somebody has been attached to the input, which ends with the first who was."""


class Input:
    """Our end of a fifo. The shim holds one too, and closes that only when it is told."""

    def __init__(self, container: ContainerId, path: str, fd: int, services: TaskServices) -> None:
        self._container = container
        self._path = path
        self._services = services
        self._sink = Sink(fd)
        self._sending = asyncio.Lock()
        self._has_ended = False

    async def send(self, data: bytes) -> None:
        """One writer after another; ConnectionError when nobody reads any more."""
        async with self._sending:
            await self._sink.write(data)

    def note_use(self) -> None:
        """Somebody is attached to an input that ends with him, even if we do not live to see that."""
        os.close(os.open(f"{self._path}{_USED}", os.O_CREAT | os.O_CLOEXEC, 0o600))

    def was_used(self) -> bool:
        """Whether an earlier daemon noted that."""
        return os.path.exists(f"{self._path}{_USED}")

    def end(self) -> None:
        """The container reads an end, for good. Safe to repeat."""
        if not self._has_ended:
            self._has_ended = True
            self._sink.release()
            HANDS.part("end of an input", self._close(), self._container)

    def release(self) -> None:
        """Let go of it. Safe to repeat."""
        self._sink.release()

    async def _close(self) -> None:
        try:
            await (await self._services.of(self._container)).close_io(self._container)
        except CribError as error:
            _log.info("the input of container %s had ended before: %s", self._container, error)
