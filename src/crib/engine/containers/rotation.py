"""Keeps the logs of running containers within the bound that the administrator set, if any."""

from __future__ import annotations

import asyncio
import logging
import time

from crib.engine.core import Core
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError
from crib.model.ids import ContainerId

_log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at all logs; what is written meanwhile may exceed the bound."""
PAUSE = 60.0
"""Seconds that a log which could not be rotated is left alone."""


class RotateLogs:
    """Background work for the daemon's life; what fails is logged and tried again later."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._paused: dict[ContainerId, float] = {}
        self._runs = False

    def begin(self) -> None:
        """From now on, whenever a bound is set (Settings.log_size_max)."""
        self._core.followers.append(lambda _: self._run())
        self._run()

    def _run(self) -> None:
        if self._core.settings.log_size_max and not self._runs:
            self._runs = True
            self._core.keeper.serve("rotate logs", self._while_bounded())

    async def _while_bounded(self) -> None:
        while self._core.settings.log_size_max:
            await self.round()
            await asyncio.sleep(INTERVAL)
        self._runs = False

    async def round(self) -> None:
        """Look at every log once."""
        rows = [row for row in self._core.containers if row.state is ContainerState.RUNNING and row.log_path]
        running = {row.id for row in rows}
        self._paused = {key: until for key, until in self._paused.items() if key in running}
        for record in rows:
            if time.monotonic() >= self._paused.get(record.id, 0.0):
                await self._rotate(record)

    async def _rotate(self, record: ContainerRecord) -> None:
        settings = self._core.settings
        sandbox = self._core.sandboxes.get(record.sandbox_id)
        if sandbox is None:
            return
        try:
            logs = self._core.caretaker(sandbox).logs
            if await logs.rotate(record, settings.log_size_max, settings.log_files):
                _log.debug("rotated the log of container %s", record.id)
        except Exception as error:  # a bug too: the others' logs are looked at
            current = self._core.containers.get(record.id)
            if current is not None and current.state is ContainerState.RUNNING:
                self._paused[record.id] = time.monotonic() + PAUSE
                is_bug, text = (
                    not isinstance(error, CribError),
                    "log of container %s: %s; tried again in %.0f s",
                )
                _log.warning(text, record.id, error, PAUSE, exc_info=is_bug)
