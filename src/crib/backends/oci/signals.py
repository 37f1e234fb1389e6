"""Signals to containers, frozen ones and ones that fork faster than they are killed among them."""

from __future__ import annotations

import os
import signal

from crib.backends.bundle.bundles import Bundles
from crib.backends.failures import checked
from crib.backends.known_processes import is_alive
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.runtime_words import runtime_words
from crib.host.freezer import Freezer
from crib.host.pidfds import signal_process
from crib.host.processes import RunOptions, run
from crib.model.container import ContainerRecord
from crib.wire.oci_runtime import decode_state

_KILL_TIME = 10.0
"""Seconds for ending all of a container by its cgroup; who waits for its exit waits on beyond them."""


class Signals:
    """See ContainerRuntime.signal."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles) -> None:
        self._env = environment
        self._cgroups = environment.cgroups
        self._freezer = Freezer(environment.cgroups.layout)
        self._bundles = bundles

    def is_frozen(self, cgroup: str) -> bool:
        """Whether the container there is paused: nothing in it runs, and nothing can be run in it."""
        return self._freezer.is_frozen(cgroup)

    async def send(self, record: ContainerRecord, signum: int, *, everyone: bool) -> None:
        """A container that somebody froze is thawed first: a stop is an order, and a frozen process obeys
        none (with cgroup v1 not even SIGKILL).
        """
        note = await self._bundles.note(record.id)
        if note is not None and (runtime := self._env.runtime_of(note.handler)).stand_in:
            await self._send_inside(record, runtime, signum, everyone=everyone)
            return
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

    async def _send_inside(
        self, record: ContainerRecord, runtime: RuntimeProgram, signum: int, *, everyone: bool
    ) -> None:
        """To processes on the pod's own kernel. Before the start there are none, but for the one outside."""
        if record.process is None:
            return
        waits = os.path.exists(f"{self._env.paths.container(record.id)}/exec.fifo")
        if waits or not is_alive(record.process):
            signal_process(record.process.pid, signum, record.process.start_time)
            return
        limit, options = self._env.settings.verb_timeout, RunOptions(owner=record.id)
        argv = runtime.kill(record.id, signum, everyone=everyone)
        sent = await run(argv, timeout=limit, options=options)
        # It may have ended meanwhile; and with all of the sandbox gone nobody is left who would answer.
        if sent.exit_code != 0 and is_alive(record.process) and not await self._has_stopped(record, runtime):
            checked(f"signal {signum} to container {record.id}", sent, runtime_words)

    async def _has_stopped(self, record: ContainerRecord, runtime: RuntimeProgram) -> bool:
        limit, options = self._env.settings.verb_timeout, RunOptions(owner=record.id)
        said = await run(runtime.state(record.id), timeout=limit, options=options)
        return said.exit_code != 0 or decode_state(said.stdout).status == "stopped"
