"""What commands leave with their shims when the daemon that ran them is killed, and the end of it.

The names of their fifos are the record of them. Those that are contained (every ExecSync) have a cgroup, and
are ended with all that is in it: nobody waits for their outcome any more. The others go on as they do when a
client goes away: their terminal hangs up, or their output is read and dropped until they end. A shim holds
their pipes, so nothing else would keep them from waiting for a reader for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.failures import trying
from crib.backends.shim.container_io import TaskServices
from crib.backends.shim.environment import ShimEnvironment
from crib.backends.shim.exec import forget
from crib.backends.shim.fifo_ends import FifoSource, open_output_again, remove_fifos
from crib.backends.shim.fifos import contained_mark, fifo_directory, stdio
from crib.backends.shim.nouns import Stdio
from crib.backends.streams.command_names import earlier_name
from crib.backends.streams.exec_sessions import drop
from crib.host.threads import OURS
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.tasks.groups import all_of
from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)

_DYING_TIME = 2.0
"""Seconds that all of one get to die from SIGKILL, and its cgroup to be removed."""


@dataclass(frozen=True, slots=True)
class _Earlier:
    """One command."""

    container: ContainerId
    name: str
    stdio: Stdio
    cgroup: str
    contained: bool


class EarlierCommands:
    """Each is dealt with once."""

    def __init__(self, environment: ShimEnvironment, bundles: Bundles, services: TaskServices) -> None:
        self._env = environment
        self._bundles = bundles
        self._services = services
        self._known: set[str] = set()

    async def end(self, known: Collection[str]) -> Sequence[str]:
        """Those in these containers, as far as they are this handler's; says what was ended."""
        with trying("ending commands of an earlier daemon"):
            found = await OURS.run(
                "looking for commands of an earlier daemon", lambda: list(self._find(known))
            )
        self._known.update(one.name for one in found)
        for one in found:
            if not one.contained:
                HANDS.part("output of an earlier daemon's command", self._let_go_on(one), one.container)
        contained = [one for one in found if one.contained]
        ended = await all_of("earlier commands", map(self._end, contained))
        return [
            f"{ended.count(container)} commands of an earlier daemon in container {container}"
            for container in dict.fromkeys(ended)
        ]

    def _find(self, known: Collection[str]) -> Iterator[_Earlier]:
        for container in map(ContainerId, known):
            note = self._bundles.read_note(container)
            if note is None or not self._env.owns(note.handler):
                continue
            names: list[str] = []
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                names = os.listdir(fifo_directory(self._env.paths, container))
            for name in {earlier_name(file) for file in names} - {""} - self._known:
                terminal = f"{name}-stderr" not in names
                cgroup = f"{note.cgroup}/{name}"
                own = stdio(self._env.paths, container, name, stdin=True, terminal=terminal)
                is_marked = os.path.basename(contained_mark(own)) in names
                yield _Earlier(
                    container,
                    name,
                    own,
                    cgroup,
                    contained=is_marked or self._env.cgroups.exists(cgroup),
                )

    async def _end(self, one: _Earlier) -> ContainerId:
        died = await self._env.cgroups.kill(one.cgroup, _DYING_TIME)
        with contextlib.suppress(OSError):
            await self._env.cgroups.remove(one.cgroup, timeout=_DYING_TIME if died else 0)
        await self._forget(one, signal.SIGKILL)
        return one.container

    async def _let_go_on(self, one: _Earlier) -> None:
        sources = []
        for path in (one.stdio.stdout, one.stdio.stderr):
            with contextlib.suppress(OSError):  # that stream has ended
                sources.append(FifoSource(open_output_again(path)))
        dropping = [HANDS.part("unwanted output", drop(source), one.container) for source in sources]
        with contextlib.suppress(CribError):  # it has ended
            service = await self._services.of(one.container)
            if one.stdio.terminal:
                await service.kill(one.container, signal.SIGHUP, one.name)
            await service.close_io(one.container, one.name)
            await service.wait(one.container, one.name)
        for source in sources:
            source.end()
        for task in dropping:
            await task
        await self._forget(one)

    async def _forget(self, one: _Earlier, signum: int = 0) -> None:
        try:
            service = await self._services.of(one.container)
            if signum:
                with contextlib.suppress(CribError):  # it has ended
                    await service.kill(one.container, signum, one.name)
                async with asyncio.timeout(_DYING_TIME):
                    await service.wait(one.container, one.name)
            await forget(service, one.container, one.name)
        except (CribError, TimeoutError) as error:
            _log.info("command %s in container %s: %s", one.name, one.container, error)
        await OURS.run("removing fifos of an earlier daemon's command", remove_fifos, one.stdio)
