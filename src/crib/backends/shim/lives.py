"""The port `ContainerRuntime`: each step of a container's life by the part that knows how."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

from crib.backends.explanations import Explanations
from crib.backends.failures import trying
from crib.backends.pods.updates import Updates
from crib.backends.shim.containers import ContainerMaking
from crib.backends.shim.exits import ShimExits
from crib.backends.shim.nouns import ProcessStatus, ShimLost
from crib.backends.shim.tools import ShimTools
from crib.host.executions import Executions
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord, Exit
from crib.model.errors import Broken, CribError, NotFound, WrongState
from crib.model.explanation import ExplainedSpec
from crib.model.sandbox import ProcessIdentity, Resources
from crib.ocispec.resources import cgroup_limits
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest, Observation
from crib.wire import oci_runtime as oci

_ENDED = re.compile(r"container `[^`]*` is not running|cannot start a (?:container that has )?stopped")
"""What runtimes say to a start whose container was killed, or ran out of memory, after its create."""
_WORDS = {
    ProcessStatus.CREATED: "created",
    ProcessStatus.RUNNING: "running",
    ProcessStatus.PAUSED: "running",
    ProcessStatus.PAUSING: "running",
}


class ShimContainers:
    """See ContainerRuntime."""

    def __init__(self, tools: ShimTools, exits: ShimExits, containers: ContainerMaking) -> None:
        self._tools = tools
        self._env = tools.environment
        self._exits = exits
        self._containers = containers
        self._explanations = Explanations(self._env.paths, tools.layers, tools.making.gather)
        self._updates = Updates(self._env, tools.bundles)
        self._executions = Executions()

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        record, tools = request.record, self._tools
        created = await self._containers.create(request, stage)
        if note := await tools.bundles.note(record.id):
            tools.oom.made(note)
        await self._updates.created(record)
        self._exits.watch(record.id)
        return created

    async def explain(self, request: CreateRequest) -> ExplainedSpec:
        return await self._explanations.explain(request)

    def made_spec(self, record: ContainerRecord) -> bytes:
        with trying(f"reading the spec of {record.id}"):
            return self._tools.bundles.read_spec(record.id)

    async def start(self, record: ContainerRecord) -> None:
        what = f"start of container {record.id}"
        if not record.is_made:
            raise WrongState(f"{what}: it was never created")
        first = record.process
        with trying(what):
            if first is None:
                await self._start(what, record)
                return
            with self._executions.watching(first.pid):
                await self._start(what, record)
                await self._runs(what, first)

    async def _start(self, what: str, record: ContainerRecord) -> None:
        try:
            await (await self._tools.services.of(record.id)).start(record.id)
        except ShimLost as error:
            raise WrongState(f"{what}: {error.problem}") from error
        except Broken as error:
            kind = WrongState if _ENDED.search(error.problem) else Broken
            raise kind(f"{what}: {error.problem}") from error

    async def _runs(self, what: str, first: ProcessIdentity) -> None:
        """The runtime has only let the first process go, which still has its seccomp filter to load.

        Until it runs the program, a signal finds the runtime's handlers, and a command a container of none.
        """
        limit = self._env.settings.verb_timeout
        try:
            await self._executions.wait(first.pid, first.start_time, limit)
        except TimeoutError:
            raise Broken(f"{what}: its program did not run within {limit:.0f} s") from None

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        with trying(f"signal {signum} to container {record.id}"):
            if everyone and not self._exits.watches(record.id):  # as in a wipe, which looks at nothing first
                with contextlib.suppress(CribError):
                    await self.observe(record)  # who ends it waits to be told of its end
            if not self._env.facts.own_kernel:
                await self._tools.signals.send(record, signum, everyone=everyone)
            elif (shim := await self._tools.services.shim_of(record.id)) is not None:
                try:
                    await shim.tasks.kill(record.id, signum, everyone=everyone)
                except (NotFound, ShimLost):
                    return  # gone already

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        if not self._env.facts.own_kernel:
            await self._updates.container(record, resources)
            return
        what = f"update of container {record.id}"
        limits = cgroup_limits(resources, self._env.inner_host)
        with trying(what):
            if await self._tools.bundles.note(record.id) is None:
                raise WrongState(f"{what}: it has no bundle")
            tasks = await self._tools.services.of(record.id)
            await tasks.update(record.id, oci.encode(limits))

    async def delete(self, record: ContainerRecord) -> None:
        tools = self._tools
        with trying(f"delete of container {record.id}"):
            note = await tools.bundles.note(record.id)
        await self._containers.delete(record.id, made=record.is_made)
        tools.usage.forget(record.id)
        tools.events.forget(record.id)
        tools.oom.forget(note.cgroup if note is not None else "")

    def exits(self) -> AsyncIterator[Exit]:
        return self._exits.stream()

    async def observe(self, record: ContainerRecord) -> Observation:
        with trying(f"looking at container {record.id}"):
            if (filed := await self._exits.read(record.id)) is not None:
                return Observation("stopped", filed, monitor_alive=True)
            await OURS.run(Job("finding a container", owner=record.id), self._found, record)
            while (shim := await self._tools.services.shim_of(record.id)) is not None:
                try:
                    state = await shim.tasks.state(record.id)
                except NotFound:
                    return Observation("gone", None, monitor_alive=False)
                except ShimLost:
                    continue
                await self._tools.io.adopt(record)
                if state.ended is not None:
                    exit_ = await self._exits.settle(record.id, state.ended)
                    self._exits.watch(record.id)  # which has the shim forget it
                    return Observation("stopped", exit_, monitor_alive=True)
                self._exits.watch(record.id)
                return Observation(_WORDS.get(state.status, "running"), None, monitor_alive=True)
            if await self._tools.bundles.note(record.id) is None:
                return Observation("gone", None, monitor_alive=False)
            await self._tools.io.adopt(record)
            return Observation("gone", await self._exits.lose(record.id), monitor_alive=False)

    def _found(self, record: ContainerRecord) -> None:
        note = self._tools.bundles.read_note(record.id)
        if note is not None:
            self._tools.oom.found(note)

    def close(self) -> None:
        """Let go of what is watched."""
        self._executions.close()
