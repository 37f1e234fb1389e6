"""Signals to containers, frozen ones and ones that fork faster than they are killed among them."""

from __future__ import annotations

import signal

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.environment import HandlerEnvironment
from crib.host.freezer import Freezer
from crib.host.pidfds import signal_process
from crib.model.container import ContainerRecord

_KILL_ROUNDS = 10
_KILL_TIME = 10.0
"""Seconds for ending all of a container by its cgroup; who waits for its exit waits on beyond them."""


class Signals:
    """See ContainerRuntime.signal."""

    def __init__(self, environment: HandlerEnvironment, bundles: Bundles) -> None:
        self._cgroups = environment.cgroups
        self._freezer = Freezer(environment.cgroups.layout)
        self._bundles = bundles

    def is_frozen(self, cgroup: str) -> bool:
        """Whether the container there is paused: nothing in it runs, and nothing can be run in it."""
        return self._freezer.is_frozen(cgroup)

    def kill_all(self, cgroup: str) -> None:
        """Kill what is in a container's cgroup. Blocks.

        Whatever survives all rounds, by forking, does not survive the delete.
        """
        for _round in range(_KILL_ROUNDS):
            pids = self._cgroups.pids(cgroup)
            for pid in pids:
                signal_process(pid, signal.SIGKILL)
            if not pids:
                return

    async def send(self, record: ContainerRecord, signum: int, *, everyone: bool) -> None:
        """A container that somebody froze is thawed first: a stop is an order, and a frozen process obeys
        none (with cgroup v1 not even SIGKILL).
        """
        note = await self._bundles.note(record.id)
        await self.deliver(record, note, signum, everyone=everyone)

    async def deliver(
        self, record: ContainerRecord, note: BundleNote | None, signum: int, *, everyone: bool
    ) -> None:
        """The same, once its note has been read."""
        if note is not None and self._freezer.is_frozen(note.cgroup):
            self._freezer.thaw(note.cgroup)
        if not everyone or note is None:
            if record.process is not None:
                signal_process(record.process.pid, signum, record.process.start_time)
        elif signum == signal.SIGKILL:
            await self._cgroups.kill(note.cgroup, _KILL_TIME)
        else:
            for pid in self._cgroups.pids(note.cgroup):
                signal_process(pid, signum)
