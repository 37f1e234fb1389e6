"""The host shuts down: containers end by their stop signals, and no end of them counts as their own.

Otherwise they would get systemd's last SIGTERM. The first process of a pid namespace ignores that signal
unless it handles it, and the host would wait 90 s for each that does (systemd-system.conf(5),
DefaultTimeoutStopSec).
"""

from __future__ import annotations

import asyncio
import logging
import signal

from crib.engine.containers.stop import happens
from crib.engine.core import Core
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError

KILL_SECONDS = 5.0
"""That killed containers may take to be gone: the daemon's own end has a limit too."""
_log = logging.getLogger(__name__)


class EndWithHost:
    """Ends what runs, once. Nothing of it is recorded: the next boot finds it lost, as after a power cut.

    A kept pod whose container ended well on its signal would otherwise count as done.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, grace: float) -> None:
        """`grace`: seconds between each container's stop signal and SIGKILL. Failures are logged."""
        core = self._core
        core.host_ends = True
        running = [row for row in core.containers if row.state is ContainerState.RUNNING]
        if not running:
            return
        _log.info("the host shuts down: %d containers have %.0f s to end", len(running), grace)
        await asyncio.wait(
            [core.keeper.start(f"end of {row.id} with the host", self._end(row, grace)) for row in running]
        )

    async def _end(self, record: ContainerRecord, grace: float) -> None:
        core = self._core
        containers = core.caretaker(core.sandboxes.get(record.sandbox_id)).containers
        exited = core.exited(record.id)
        try:
            await containers.signal(record, record.stop_signal)
            if not await happens(exited, grace):
                await containers.signal(record, signal.SIGKILL, everyone=True)
                await happens(exited, KILL_SECONDS)
        except CribError as error:
            _log.warning("container %s does not end with the host: %s", record.id, error)
