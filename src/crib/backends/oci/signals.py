"""Signals to containers on a kernel of their own, which the runtime sends."""

from __future__ import annotations

import os

from crib.backends.bundle.bundles import Bundles
from crib.backends.failures import checked
from crib.backends.known_processes import is_alive
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.environment import OciEnvironment
from crib.backends.pods.signals import Signals
from crib.backends.runtime_words import runtime_words
from crib.host.pidfds import signal_process
from crib.host.processes import RunOptions, run
from crib.model.container import ContainerRecord
from crib.wire.oci_runtime import decode_state


class RuntimeSignals(Signals):
    """Sends all others as on any host."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles) -> None:
        super().__init__(environment, bundles)
        self._env = environment

    async def send(self, record: ContainerRecord, signum: int, *, everyone: bool) -> None:
        note = await self._bundles.note(record.id)
        if note is not None and (runtime := self._env.runtime_of(note.handler)).stand_in:
            await self._send_inside(record, runtime, signum, everyone=everyone)
        else:
            await super().send(record, signum, everyone=everyone)

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
