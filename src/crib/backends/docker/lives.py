"""The port `ContainerRuntime`: each step of a container's life by the part that knows how."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from dataclasses import replace

from crib.backends.docker.api import EngineLost
from crib.backends.docker.containers import DockerMaking
from crib.backends.docker.exits import KILLED, DockerExits, made_file
from crib.backends.docker.nouns import EngineContainer
from crib.backends.docker.tools import DockerTools
from crib.backends.explanations import Explanations
from crib.backends.failures import trying
from crib.backends.known_processes import identity
from crib.backends.pods.updates import Updates
from crib.backends.runtime_words import create_failure
from crib.host.executions import Executions
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord, Exit
from crib.model.errors import Broken, CribError, InvalidRequest, NotFound, WrongState
from crib.model.explanation import ExplainedSpec
from crib.model.sandbox import ProcessIdentity, Resources
from crib.ocispec.process import oom_score_adj
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest, Observation, RestoredProcesses

_RUNTIME = "OCI runtime create failed: "


class DockerContainers:
    """See ContainerRuntime."""

    def __init__(self, tools: DockerTools, exits: DockerExits, making: DockerMaking) -> None:
        self._tools = tools
        self._env = tools.environment
        self._exits = exits
        self._making = making
        self._explanations = Explanations(self._env.paths, tools.layers, tools.making.gather)
        self._updates = Updates(self._env, tools.bundles)
        self._executions = Executions()

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        self._exits.open()
        created = await self._making.create(request, stage)
        if note := await self._tools.bundles.note(request.record.id):
            self._tools.oom.made(note)
        return created

    async def explain(self, request: CreateRequest) -> ExplainedSpec:
        return await self._explanations.explain(request)

    def made_spec(self, record: ContainerRecord) -> bytes:
        with trying(f"reading the spec of {record.id}"):
            return self._tools.bundles.read_spec(record.id)

    async def start(self, record: ContainerRecord) -> RestoredProcesses | None:
        what = f"start of container {record.id}"
        if not record.is_made:
            raise WrongState(f"{what}: it was never created")
        try:
            await self._tools.containers.start(record.id)
        except NotFound as error:
            raise WrongState(f"{what}: the Engine does not know it any more") from error
        except EngineLost:
            raise
        except (Broken, InvalidRequest) as error:
            words = error.problem.rpartition(_RUNTIME)[2].removesuffix(": unknown")
            raise create_failure(what, words) from error
        self._tools.logs.begin(record)
        with trying(what):
            await self._making.let_go(record.id)
            found = await self._tools.containers.find(record.id)
            first = identity(found.pid) if found is not None and found.pid else None
            if first is None:
                return None  # it has ended already, as the Engine's events tell
            await OURS.run(self._job(record), self._write_pid, record, first)
            await self._runs(what, first)
            return RestoredProcesses(first, None)

    def _write_pid(self, record: ContainerRecord, first: ProcessIdentity) -> None:
        """Where the process is found, and the score that an update has given it before it was there."""
        with open(self._tools.bundles.pid_file(record.id), "w", encoding="ascii") as file:
            file.write(str(first.pid))
        if record.resources.oom_score_adj != record.config.resources.oom_score_adj:
            score = oom_score_adj(record.resources.oom_score_adj, self._env.host)
            with open(f"/proc/{first.pid}/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(score))

    async def _runs(self, what: str, first: ProcessIdentity) -> None:
        """The runtime has only let the first process go, which still has its seccomp filter to load."""
        limit = self._env.settings.verb_timeout
        try:
            with self._executions.watching(first.pid):
                await self._executions.wait(first.pid, first.start_time, limit)
        except TimeoutError:
            raise Broken(f"{what}: its program did not run within {limit:.0f} s") from None

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        tools = self._tools
        with trying(f"signal {signum} to container {record.id}"):
            first = await OURS.run(self._job(record), tools.bundles.first_pid, record.id)
            process = identity(first) if first else None
            await tools.signals.send(replace(record, process=process), signum, everyone=everyone)
            if process is None and signum == signal.SIGKILL:
                await self._end_unstarted(record)

    async def _end_unstarted(self, record: ContainerRecord) -> None:
        """Of a container that was never started nobody else tells that it was killed."""
        if not await OURS.run(self._job(record), self._is_made, record):
            return
        try:
            found = await self._tools.containers.find(record.id)
        except EngineLost:
            return
        if found is not None and found.status == "created":
            await self._exits.lose(record.id, KILLED, "")

    def _is_made(self, record: ContainerRecord) -> bool:
        try:
            with open(made_file(self._env.paths.container(record.id)), "rb"):
                return True
        except FileNotFoundError:
            return False

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        await self._updates.container(record, resources)

    async def delete(self, record: ContainerRecord) -> None:
        tools = self._tools
        with trying(f"delete of container {record.id}"):
            note = await tools.bundles.note(record.id)
        await self._making.delete(record.id, made=record.is_made)
        tools.usage.forget(record.id)
        tools.oom.forget(note.cgroup if note is not None else "")

    async def exits(self) -> AsyncIterator[Exit]:
        self._exits.open()
        async for exit_ in self._exits.stream():
            yield exit_

    async def observe(self, record: ContainerRecord) -> Observation:
        self._exits.open()
        with trying(f"looking at container {record.id}"):
            if (filed := await self._exits.read(record.id)) is not None:
                return Observation("stopped", filed, monitor_alive=True)
            note = await self._tools.bundles.note(record.id)
            if note is None:
                return Observation("gone", None, monitor_alive=False)
            await OURS.run(self._job(record), self._tools.oom.found, note)
            try:
                found = await self._tools.containers.find(record.id)
            except CribError:
                return await self._unasked(record)
            if found is None:
                made = await OURS.run(self._job(record), self._is_made, record)
                lost = await self._exits.lose(record.id) if made else None
                return Observation("gone", lost, monitor_alive=False)
            return await self._seen(record, found)

    async def _seen(self, record: ContainerRecord, found: EngineContainer) -> Observation:
        if found.runs:
            first = identity(found.pid) if found.pid else None
            if first is not None:
                await OURS.run(self._job(record), self._write_pid, record, first)
            self._tools.logs.begin(record)
            return Observation("running", None, monitor_alive=True)
        if found.has_ended:
            self._tools.logs.begin(record)
            return Observation("stopped", await self._exits.settle(record.id, found), monitor_alive=True)
        return Observation("created", None, monitor_alive=True)

    async def _unasked(self, record: ContainerRecord) -> Observation:
        """The Engine is away. Its end is told when it is back; whether it runs can be seen without it."""
        self._tools.logs.begin(record)
        if await OURS.run(self._job(record), self._tools.bundles.first_pid, record.id):
            return Observation("running", None, monitor_alive=True)
        status = "stopped" if record.started_at else "created"
        return Observation(status, None, monitor_alive=True)

    def _job(self, record: ContainerRecord) -> Job:
        return Job(f"looking at container {record.id}", owner=record.id)

    def close(self) -> None:
        """Let go of what is watched."""
        self._executions.close()
