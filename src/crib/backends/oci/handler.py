"""The port `Handler` by an OCI runtime and conmon. Its ports hand their work to the parts that know how."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Self

from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.failures import trying
from crib.backends.oci.attach import Attachments
from crib.backends.oci.earlier_commands import end_earlier_commands
from crib.backends.oci.environment import OciEnvironment, closed_environment, open_environment
from crib.backends.oci.exec import Commands
from crib.backends.oci.lives import OciContainers
from crib.backends.oci.log_reopening import reopen
from crib.backends.oci.parts import HandlerParts, open_parts
from crib.backends.oci.runtime_notes import Programs
from crib.backends.oci.strays import find_strays, remove_parts
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.losses import PodLosses
from crib.backends.pods.pods import Pods
from crib.backends.pods.slices import stop_slice
from crib.backends.pods.updates import Updates
from crib.backends.pods.usage import UsageReader
from crib.backends.streams.dial import dial
from crib.backends.streams.log_rotation import rotate
from crib.backends.streams.logs import odd_logs, sizes_of_logs
from crib.ends import ByteStream, Session
from crib.host.mounts import unmount_tree
from crib.host.threads import FOREIGN, OURS
from crib.model.container import ContainerRecord
from crib.model.facts import HandlerFacts, Readiness
from crib.model.ids import ContainerId, SandboxId
from crib.model.sandbox import ProcessIdentity, SandboxRecord
from crib.model.settings import Settings
from crib.model.stats import CgroupUsage, ContainerUsage
from crib.model.streams import AttachRequest, ExecProcess, PodAddress
from crib.ports.clocks import StageTimer


class OciHandler:
    """See Handler."""

    @classmethod
    async def open(cls, opening: HandlerOpening) -> Self:
        """See HandlerKind."""
        return cls(await open_environment(opening), opening.layers)

    @classmethod
    def closed(cls, opening: HandlerOpening, problem: str) -> Self:
        """See HandlerKind."""
        return cls(closed_environment(opening, problem), opening.layers)

    def __init__(self, environment: OciEnvironment, layers: SharedLayers) -> None:
        self._env = environment
        self._paths = environment.paths
        self._programs = Programs(environment.runtime.program, environment.monitor.program)
        self._parts = parts = open_parts(environment, layers)
        self.pods = OciPods(parts)
        self.containers = OciContainers(parts)
        self.streams = OciStreams(parts)
        self.logs = OciLogs(environment)
        self.statistics = OciStatistics(parts)

    @property
    def facts(self) -> HandlerFacts:
        return self._env.facts

    def adapt(self, settings: Settings) -> None:
        self._env.settings = settings
        self._parts.making.adapt()

    async def readiness(self) -> Readiness:
        problem = await self._programs.missing() or self.facts.problem
        return Readiness(not problem, "HandlerNotReady" if problem else "", problem)

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        with trying("looking for what belongs to nobody"):
            strays = await OURS.run("looking for what belongs to nobody", find_strays, self._env, known)
        if dry:
            return strays.words
        for container in strays.containers:
            await self._parts.containers.delete(container)
        for sandbox in strays.sandboxes:
            await self._parts.pods.remove_unknown(sandbox)
        with trying("removing what belongs to nobody"):
            await remove_parts(self._env, strays)
        return [*strays.words, *await end_earlier_commands(self._env, self._parts.bundles, known())]

    async def dismantle(self) -> None:
        with trying("undoing what all containers share"):
            for tree in (self._paths.containers, self._paths.sandboxes, self._paths.infra_root):
                await OURS.run(f"unmounting {tree}", unmount_tree, tree)
            if self._env.names.systemd:
                await stop_slice(os.path.basename(self._env.names.own))
            await self._env.cgroups.remove(self._env.names.own)

    async def close(self) -> None:
        self._parts.exits.close()
        self.containers.close()


class OciPods:
    """See PodRuntime."""

    def __init__(self, parts: HandlerParts) -> None:
        self._pods: Pods = parts.pods
        self._paths = parts.environment.paths
        self._losses = PodLosses(self._paths)
        self._updates = Updates(parts.environment, parts.bundles)

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> None:
        await self._pods.prepare(record, stage)

    async def start(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        infra = await self._pods.start(record, stage)
        if infra is not None:
            self._losses.watch(record.id, infra)
        return infra

    async def stop(self, record: SandboxRecord) -> None:
        await self._pods.stop(record)

    async def remove(self, record: SandboxRecord) -> None:
        await self._pods.remove(record)

    def netns_path(self, record: SandboxRecord) -> str:
        return "" if record.config.host_network else self._paths.namespace(record.id, "net")

    def made_spec(self, record: SandboxRecord) -> bytes:
        with trying(f"reading the spec of {record.id}"):
            return self._pods.made_spec(record)

    async def update(self, record: SandboxRecord) -> None:
        await self._updates.pod(record)

    async def alive(self, record: SandboxRecord) -> bool:
        with trying(f"looking at pod sandbox {record.id}"):
            return await self._pods.alive(record)

    def losses(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        return self._losses.stream(ready)


class OciStreams:
    """See ContainerStreams."""

    def __init__(self, parts: HandlerParts) -> None:
        environment = parts.environment
        self._paths = environment.paths
        self._commands = Commands(environment, parts.bundles, parts.signals)
        self._attachments = Attachments(environment, parts.exits.read)

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        return await self._commands.open(record, process)

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        return await self._attachments.attach(record, wanted)

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        return await dial(self._paths, record, containers, address)


class OciLogs:
    """See ContainerLogs."""

    def __init__(self, environment: OciEnvironment) -> None:
        self._paths = environment.paths

    async def reopen(self, record: ContainerRecord) -> None:
        if record.log_path:
            with trying(f"reopening the log of container {record.id}"):
                await reopen(record, self._paths.container(record.id))

    async def rotate(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        with trying(f"rotating the log of container {record.id}"):
            renew = partial(reopen, record, self._paths.container(record.id))
            return bool(record.log_path) and await rotate(record, renew, size_max, files)

    async def sizes(self, records: Sequence[ContainerRecord]) -> Mapping[ContainerId, int]:
        return await sizes_of_logs(records)

    async def odd(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        with trying("looking at the logs"):
            return await FOREIGN.run("looking at the logs", odd_logs, tuple(sandboxes), tuple(containers))


class OciStatistics:
    """See Statistics."""

    def __init__(self, parts: HandlerParts) -> None:
        self._names: CgroupNames = parts.environment.names
        self._pods: Pods = parts.pods
        self._usage: UsageReader = parts.usage

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        below, pod = self._names.below, self._pods.cgroup
        cgroups = [(record.id, below(pod(sandbox), record.id)) for record, sandbox in asked]
        with trying(f"usage of {len(cgroups)} containers"):
            return await self._usage.containers(cgroups, whole=whole)

    async def pods(self, asked: Sequence[SandboxRecord], *, whole: bool = False) -> Sequence[CgroupUsage]:
        cgroups = [self._pods.cgroup(record) for record in asked]
        with trying(f"usage of {len(cgroups)} pods"):
            return await self._usage.pods(cgroups, whole=whole)
