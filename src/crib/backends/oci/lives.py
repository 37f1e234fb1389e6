"""The port `ContainerRuntime`: each step of a container's life by the part that knows how."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from crib.backends.explanations import Explanations
from crib.backends.failures import checked, trying
from crib.backends.known_processes import is_alive
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.parts import HandlerParts
from crib.backends.oci.restores import WAITS
from crib.backends.pods.updates import Updates
from crib.backends.runtime_words import runtime_words
from crib.backends.together import Together
from crib.host.executions import Executions
from crib.host.processes import Completed, RunOptions, run
from crib.model.container import ContainerRecord, Exit
from crib.model.errors import Broken, WrongState
from crib.model.explanation import ExplainedSpec
from crib.model.ids import ContainerId
from crib.model.sandbox import ProcessIdentity, Resources
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest, Observation, RestoredProcesses
from crib.tasks.groups import Beside
from crib.wire.oci_runtime import decode_state

_LOOK_AGAIN = 1.0
"""Seconds after which a start that still runs is looked at."""
_ENDED = re.compile(r"container `[^`]*` is not running|cannot start a container that has stopped")
"""What crun and runc say to a start whose container was killed, or ran out of memory, after its create."""


@dataclass(frozen=True, slots=True)
class _OnFile:
    """What files say of a container."""

    runtime: RuntimeProgram
    is_known: bool
    """To the runtime."""
    waits: bool
    """Its first process, to be started."""
    exit_filed: bool


class OciContainers:
    """See ContainerRuntime."""

    def __init__(self, parts: HandlerParts) -> None:
        self._env = parts.environment
        self._paths = parts.environment.paths
        self._parts = parts
        self._looks = Together("looking at containers", self._look)
        self._explanations = Explanations(self._paths, parts.layers, parts.making.gather)
        self._updates = Updates(self._env, parts.bundles)
        self._executions = Executions()

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        record = request.record
        created = await self._parts.containers.create(request, stage)
        if request.restore is None:
            await self._look_after(record, created.monitor, created.process)
        return created

    async def _look_after(
        self, record: ContainerRecord, monitor: ProcessIdentity | None, first: ProcessIdentity | None
    ) -> None:
        """From now on there are processes in its cgroup."""
        if note := await self._parts.bundles.note(record.id):
            self._parts.oom.made(note)
        await self._updates.created(record)
        self._parts.exits.watch(record.id, monitor, first)

    async def explain(self, request: CreateRequest) -> ExplainedSpec:
        return await self._explanations.explain(request)

    def made_spec(self, record: ContainerRecord) -> bytes:
        with trying(f"reading the spec of {record.id}"):
            return self._parts.bundles.read_spec(record.id)

    async def start(self, record: ContainerRecord) -> RestoredProcesses | None:
        if record.awaits_restore:
            started = await self._parts.containers.restore(record)
            await self._look_after(record, started.monitor, started.process)
            return started
        await self._start(record)
        return None

    async def _start(self, record: ContainerRecord) -> None:
        what = f"start of container {record.id}"
        limit, first = self._env.settings.verb_timeout, record.process
        if first is None:
            raise WrongState(f"{what}: it was never created")
        with trying(what), self._executions.watching(first.pid):
            completed = await self._run_start(what, record.id, first)
            if (words := completed.stderr.decode("utf-8", "replace")) and _ENDED.search(words):
                raise WrongState(f"{what}: its first process has ended: {runtime_words(words)}")
            checked(what, completed, runtime_words)
            if self._env.facts.own_kernel:
                return
            # The runtime has only let the first process go, which still has its seccomp filter to load: until
            # it runs the program, a signal finds the runtime's handlers, and a command a container of none.
            try:
                await self._executions.wait(first.pid, first.start_time, limit)
            except TimeoutError:
                raise Broken(f"{what}: its program did not run within {limit:.0f} s") from None

    async def _run_start(self, what: str, container: ContainerId, first: ProcessIdentity) -> Completed:
        """The runtime's start. Crun waits forever to signal a first process that has just died."""
        runtime, limit = self._env.runtime, self._env.settings.verb_timeout
        argv = runtime.start_monitored(container, self._paths.container(container))
        async with Beside() as beside:
            running = beside.start(what, run(argv, timeout=limit, options=RunOptions(owner=container)))
            while not (await asyncio.wait([running], timeout=_LOOK_AGAIN))[0]:
                # The runtime removes the pipe once it has released the process: then only hooks keep it.
                if not is_alive(first) and os.path.exists(self._fifo(runtime, container)):
                    raise WrongState(f"{what}: its first process has ended")
            return running.result()

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        with trying(f"signal {signum} to container {record.id}"):
            await self._parts.signals.send(record, signum, everyone=everyone)

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        if record.awaits_restore:
            raise WrongState(f"update of container {record.id}: it is restored first, when it starts")
        await self._updates.container(record, resources)

    async def delete(self, record: ContainerRecord) -> None:
        parts = self._parts
        parts.exits.forget(record.id)
        with trying(f"delete of container {record.id}"):
            note = await parts.bundles.note(record.id)
        await parts.containers.delete(record.id, made=record.is_made)
        cgroup = note.cgroup if note is not None else ""
        parts.usage.forget(record.id)
        parts.oom.forget(cgroup)

    def exits(self) -> AsyncIterator[Exit]:
        return self._parts.exits.stream()

    async def observe(self, record: ContainerRecord) -> Observation:
        what = f"looking at container {record.id}"
        monitor_alive = is_alive(record.monitor)
        with trying(what):
            note = await self._parts.bundles.note(record.id) if record.awaits_restore else None
            if note is not None and note.restore == WAITS:
                return Observation("created", None, monitor_alive=True)
            if monitor_alive:
                # By the record: a monitor reports its container even if the bundle is lost.
                self._parts.exits.watch(record.id, record.monitor, record.process)
            seen = await self._looks.ask(record.id)
            status = await self._status(what, record, seen)
            found = await self._parts.exits.read(record.id) if seen.exit_filed else None
        return Observation(status, found, monitor_alive)

    def _look(self, container: ContainerId) -> _OnFile:
        note = self._parts.bundles.read_note(container)
        if note is not None:
            self._parts.oom.found(note)
        runtime = self._env.runtime_of(note.handler) if note is not None else self._env.runtime
        return _OnFile(
            runtime=runtime,
            is_known=bool(runtime.state_of(container)),
            waits=os.path.exists(self._fifo(runtime, container)),
            exit_filed=os.path.exists(self._paths.exit_file(container)),
        )

    def _fifo(self, runtime: RuntimeProgram, container: ContainerId) -> str:
        """There until the container is started."""
        place = self._paths.container(container) if runtime.stand_in else f"{runtime.root}/{container}"
        return f"{place}/exec.fifo"

    async def _status(self, what: str, record: ContainerRecord, seen: _OnFile) -> str:
        """The runtime's word for it; see Observation."""
        runtime = seen.runtime
        if not seen.is_known:
            return "gone"
        if record.process is not None and self._env.has_fifo and runtime == self._env.runtime:
            # As the runtime itself finds out, and without a program for each container (1.3 ms).
            return ("created" if seen.waits else "running") if is_alive(record.process) else "stopped"
        try:
            with trying(what):
                limit, options = self._env.settings.verb_timeout, RunOptions(owner=record.id)
                completed = await run(runtime.state(record.id), timeout=limit, options=options)
        except Broken:
            if runtime == self._env.runtime and self._env.facts.version:
                raise
            # The handler is gone, and its program with it: the process itself is left to be asked.
            return record.state.value if is_alive(record.process) else "stopped"
        if completed.exit_code != 0:
            return "gone"
        try:
            return decode_state(completed.stdout).status
        except ValueError as error:
            raise Broken(f"{what}: {error}") from error

    def close(self) -> None:
        """Let go of what is watched."""
        self._executions.close()
