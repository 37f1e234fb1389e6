"""The port `Handler` by an OCI runtime and conmon. Its ports hand their work to the parts that know how."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Self

from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.failures import trying
from crib.backends.oci.attach import Attachments
from crib.backends.oci.dial_inside import InsideDialler
from crib.backends.oci.earlier_commands import end_earlier_commands
from crib.backends.oci.environment import OciEnvironment, closed_environment, open_environment
from crib.backends.oci.exec import Commands
from crib.backends.oci.inside_usage import InsideUsage
from crib.backends.oci.lives import OciContainers
from crib.backends.oci.log_reopening import reopen
from crib.backends.oci.parts import HandlerParts, open_parts
from crib.backends.oci.strays import find_oci_strays, remove_parts
from crib.backends.pods.running import RunningPods
from crib.backends.pods.slices import stop_slice
from crib.backends.pods.statistics import CgroupStatistics
from crib.backends.programs import Programs
from crib.backends.streams.dial import dial
from crib.backends.streams.log_rotation import rotate
from crib.backends.streams.logs import odd_logs, sizes_of_logs
from crib.ends import ByteStream, Session
from crib.host.mounts import unmount_tree
from crib.host.threads import FOREIGN, OURS
from crib.model.container import ContainerRecord
from crib.model.facts import HandlerFacts, Readiness
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord
from crib.model.settings import Settings
from crib.model.stats import ContainerUsage
from crib.model.streams import AttachRequest, ExecProcess, PodAddress


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
        self.pods = RunningPods(environment, parts.pods, parts.bundles)
        self.containers = OciContainers(parts)
        self.streams = OciStreams(parts)
        self.logs = OciLogs(environment)
        self.statistics = CgroupStatistics(environment, parts.pods, parts.usage)

    @property
    def facts(self) -> HandlerFacts:
        return self._env.facts

    def adapt(self, settings: Settings) -> None:
        self._env.adapt(settings)
        self._parts.making.adapt()

    async def readiness(self) -> Readiness:
        problem = await self._programs.missing() or self.facts.problem
        return Readiness(not problem, "HandlerNotReady" if problem else "", problem)

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        with trying("looking for what belongs to nobody"):
            strays = await OURS.run("looking for what belongs to nobody", find_oci_strays, self._env, known)
        if dry:
            return strays.words
        for container in strays.known.containers:
            await self._parts.containers.delete(container)
        for sandbox in strays.known.sandboxes:
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


class OciStreams:
    """See ContainerStreams."""

    def __init__(self, parts: HandlerParts) -> None:
        environment = parts.environment
        self._paths = environment.paths
        self._facts = environment.facts
        self._inside = InsideDialler(environment)
        self._commands = Commands(environment, parts.bundles, parts.signals)
        self._attachments = Attachments(environment, parts.exits.read)

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        return await self._commands.open(record, process)

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        return await self._attachments.attach(record, wanted)

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        inside = self._facts.network_inside and not record.config.host_network
        if inside or (self._facts.own_kernel and address.kind == "unix"):
            return await self._inside.dial(record, address)
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


class OciStatistics(CgroupStatistics):
    """See Statistics. In the cgroups of containers with a kernel of their own is what stands in for them."""

    def __init__(self, parts: HandlerParts) -> None:
        super().__init__(parts.environment, parts.pods, parts.usage)
        self._own_kernel = parts.environment.facts.own_kernel
        self._insides = InsideUsage(parts.environment)

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        usages = await super().containers(asked, whole=whole)
        if not self._own_kernel:
            return usages
        with trying(f"usage of {len(asked)} containers"):
            inside = await self._insides.of([record for record, _ in asked])
        return [usage._replace(cgroup=found) for usage, found in zip(usages, inside, strict=True)]
