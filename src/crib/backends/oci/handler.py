"""The Handler port by an OCI runtime and conmon: each method hands its work to the part that knows how."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.bundle.rootfs import SharedLayers
from crib.backends.failures import checked, trying
from crib.backends.known_processes import is_alive
from crib.backends.oci.attach import Attachments
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.containers import ContainerRequest, Containers
from crib.backends.oci.dial import dial
from crib.backends.oci.earlier_commands import end_earlier_commands
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.exec import Commands
from crib.backends.oci.exits import Exits
from crib.backends.oci.explain import Explanations
from crib.backends.oci.infra import InfraContainers
from crib.backends.oci.log_rotation import reopen, rotate
from crib.backends.oci.odd_logs import odd_logs
from crib.backends.oci.runtime_notes import Programs
from crib.backends.oci.runtime_words import runtime_words
from crib.backends.oci.seccomp_cache import SeccompFilters
from crib.backends.oci.signals import Signals
from crib.backends.oci.strays import find_strays, remove_parts
from crib.backends.pods.losses import PodLosses
from crib.backends.pods.oom import OomKills
from crib.backends.pods.pods import Pods
from crib.backends.pods.slices import stop_slice
from crib.backends.pods.updates import Updates
from crib.backends.pods.usage import UsageReader
from crib.backends.together import Together
from crib.ends import ByteStream, Session
from crib.host.cgroup_stats import StatsReader
from crib.host.executions import Executions
from crib.host.mounts import unmount_tree
from crib.host.processes import Completed, RunOptions, run
from crib.host.threads import FOREIGN, OURS
from crib.model.container import ContainerRecord, Exit
from crib.model.errors import Broken, WrongState
from crib.model.explanation import ExplainedSpec
from crib.model.facts import HandlerFacts, Readiness
from crib.model.ids import ContainerId, SandboxId
from crib.model.image import ImageConfig
from crib.model.sandbox import ProcessIdentity, Resources, SandboxRecord
from crib.model.stats import ContainerUsage, PodUsage
from crib.model.streams import AttachRequest, ExecProcess, PodAddress
from crib.ports.clocks import StageTimer
from crib.ports.handler import CreatedContainer, Observation
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


class OciHandler:
    """See ports.Handler; made with `open_environment`."""

    def __init__(self, environment: OciEnvironment, layers: SharedLayers) -> None:
        self._env = environment
        self._paths = environment.paths
        stats = StatsReader(environment.cgroups.layout)
        self._programs = Programs(environment.runtime.program, environment.monitor.program)
        self._bundles = Bundles(environment.paths)
        self._looks = Together("looking at containers", self._look)
        filters = SeccompFilters(environment.runtime.root, kept=environment.is_crun)
        self._pods = Pods(environment, InfraContainers(environment, filters))
        self._losses = PodLosses(environment.paths)
        self._oom = OomKills(environment.paths, stats)
        self._containers = Containers(environment, self._bundles, layers, self._oom, filters)
        self._explanations = Explanations(environment.paths, layers, self._containers.gather)
        self._signals = Signals(environment, self._bundles)
        self._commands = Commands(environment, self._bundles, self._signals)
        self._executions = Executions()
        self._exits = Exits(environment, self._bundles, self._oom)
        self._attachments = Attachments(environment, self._exits.read)
        self._updates = Updates(environment, self._bundles)
        self._usage = UsageReader(environment.paths, stats)

    @property
    def facts(self) -> HandlerFacts:
        return self._env.facts

    async def readiness(self) -> Readiness:
        problem = await self._programs.missing() or self.facts.problem
        return Readiness(not problem, "HandlerNotReady" if problem else "", problem)

    async def prepare_pod(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        infra = await self._pods.prepare(record, stage)
        if infra is not None:
            self._losses.watch(record.id, infra)
        return infra

    async def stop_pod(self, record: SandboxRecord) -> None:
        await self._pods.stop(record)

    async def remove_pod(self, record: SandboxRecord) -> None:
        await self._pods.remove(record)
        self._usage.forget_cgroup(self._pods.cgroup(record))

    def netns_path(self, record: SandboxRecord) -> str:
        return "" if record.config.host_network else self._paths.namespace(record.id, "net")

    async def create(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig, stage: StageTimer
    ) -> CreatedContainer:
        created = await self._containers.create(ContainerRequest(record, sandbox, image), stage)
        if note := await self._bundles.note(record.id):
            self._oom.made(note)
        await self._updates.created(record)
        self._exits.watch(record.id, created.monitor, created.process)
        return created

    async def explain(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig
    ) -> ExplainedSpec:
        return await self._explanations.explain(ContainerRequest(record, sandbox, image))

    def made_spec(self, record: ContainerRecord | SandboxRecord) -> bytes:
        with trying(f"reading the spec of {record.id}"):
            if isinstance(record, SandboxRecord):
                return self._pods.made_spec(record)
            return self._bundles.read_spec(record.id)

    async def start(self, record: ContainerRecord) -> None:
        what = f"start of container {record.id}"
        limit, first = self._env.settings.verb_timeout, record.process
        if first is None:
            raise WrongState(f"{what}: it was never created")
        with trying(what), self._executions.watching(first.pid):
            completed = await self._run_start(what, record.id, first)
            if (words := completed.stderr.decode("utf-8", "replace")) and _ENDED.search(words):
                raise WrongState(f"{what}: its first process has ended: {runtime_words(words)}")
            checked(what, completed, runtime_words)
            # The runtime has only let the first process go, which still has its seccomp filter to load: until
            # it runs the program, a signal finds the runtime's handlers, and a command a container of none.
            try:
                await self._executions.wait(first.pid, first.start_time, limit)
            except TimeoutError:
                raise Broken(f"{what}: its program did not run within {limit:.0f} s") from None

    async def _run_start(self, what: str, container: ContainerId, first: ProcessIdentity) -> Completed:
        """The runtime's start. Crun waits for ever to tell a first process that has died just before."""
        runtime, limit = self._env.runtime, self._env.settings.verb_timeout
        async with Beside() as beside:
            running = beside.start(
                what, run(runtime.start(container), timeout=limit, options=RunOptions(owner=container))
            )
            while not (await asyncio.wait([running], timeout=_LOOK_AGAIN))[0]:
                # The runtime removes the pipe once the process has been told: then only hooks keep it.
                if not is_alive(first) and os.path.exists(f"{runtime.root}/{container}/exec.fifo"):
                    raise WrongState(f"{what}: its first process has ended")
            return running.result()

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        with trying(f"signal {signum} to container {record.id}"):
            await self._signals.send(record, signum, everyone=everyone)

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        return await self._commands.open(record, process)

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        return await self._attachments.attach(record, wanted)

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        return await dial(self._paths, record, containers, address)

    async def reopen_log(self, record: ContainerRecord) -> None:
        """Returns once the new file is in place. A container without a log has nothing to do."""
        if record.log_path:
            with trying(f"reopening the log of container {record.id}"):
                await reopen(record, self._paths.container(record.id))

    async def rotate_log(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        with trying(f"rotating the log of container {record.id}"):
            bundle = self._paths.container(record.id)
            return bool(record.log_path) and await rotate(record, bundle, size_max, files)

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        await self._updates.container(record, resources)

    async def update_pod(self, record: SandboxRecord) -> None:
        await self._updates.pod(record, "resources")

    async def delete(self, record: ContainerRecord) -> None:
        self._exits.forget(record.id)
        with trying(f"delete of container {record.id}"):
            note = await self._bundles.note(record.id)
        await self._containers.delete(record.id, made=record.process is not None)
        cgroup = note.cgroup if note is not None else ""
        self._usage.forget(record.id, cgroup)
        self._oom.forget(cgroup)

    def exits(self) -> AsyncIterator[Exit]:
        return self._exits.stream()

    async def observe(self, record: ContainerRecord) -> Observation:
        what = f"looking at container {record.id}"
        monitor_alive = is_alive(record.monitor)
        with trying(what):
            if monitor_alive:
                # By the record: a monitor tells of its container also when the bundle is lost.
                self._exits.watch(record.id, record.monitor, record.process)
            seen = await self._looks.ask(record.id)
            status = await self._status(what, record, seen)
            found = await self._exits.read(record.id) if seen.exit_filed else None
        return Observation(status, found, monitor_alive)

    def _look(self, container: ContainerId) -> _OnFile:
        note = self._bundles.read_note(container)
        if note is not None:
            self._oom.found(note)
        runtime = self._env.runtime_of(note.handler) if note is not None else self._env.runtime
        state = f"{runtime.root}/{container}"
        return _OnFile(
            runtime=runtime,
            is_known=os.path.isdir(state),
            waits=os.path.exists(f"{state}/exec.fifo"),
            exit_filed=os.path.exists(self._paths.exit_file(container)),
        )

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

    async def pod_alive(self, record: SandboxRecord) -> bool:
        with trying(f"looking at pod sandbox {record.id}"):
            return await self._pods.alive(record)

    def lost_pods(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        return self._losses.stream(ready)

    async def container_usage(self, record: ContainerRecord, sandbox: SandboxRecord) -> ContainerUsage:
        cgroup = self._env.names.below(self._pods.cgroup(sandbox), record.id)
        with trying(f"usage of container {record.id}"):
            return ContainerUsage(self._usage.cgroup(cgroup), await self._usage.writable_layer(record.id))

    async def pod_usage(self, record: SandboxRecord) -> PodUsage:
        usage = self._usage.cgroup(self._pods.cgroup(record))
        return PodUsage(usage, at=time.time_ns())

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        with trying("looking for what belongs to nobody"):
            strays = await OURS.run("looking for what belongs to nobody", find_strays, self._env, known)
        if dry:
            return strays.words
        for container in strays.containers:
            await self._containers.delete(container)
        for sandbox in strays.sandboxes:
            await self._pods.remove_unknown(sandbox)
        with trying("removing what belongs to nobody"):
            await remove_parts(self._env, strays)
        return [*strays.words, *await end_earlier_commands(self._env, self._bundles, known())]

    async def odd_logs(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        with trying("looking at the logs"):
            return await FOREIGN.run("looking at the logs", odd_logs, tuple(sandboxes), tuple(containers))

    async def dismantle(self) -> None:
        with trying("undoing what all containers share"):
            for tree in (self._paths.containers, self._paths.sandboxes, self._paths.infra_root):
                await OURS.run(f"unmounting {tree}", unmount_tree, tree)
            if self._env.names.systemd:
                await stop_slice(os.path.basename(self._env.names.own))
            await self._env.cgroups.remove(self._env.names.own)

    async def close(self) -> None:
        self._exits.close()
        self._executions.close()
