"""A pod's own container: it has the namespaces that the others join, and starts before the pod's network.

The Engine joins nothing but containers. So this one is begun without a network; what it was given is pinned
as any pod's namespaces are, and our own network attaches to that.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

import msgspec

from crib.backends.docker.environment import DockerEnvironment
from crib.backends.docker.images import EngineImages
from crib.backends.docker.known import KnownContainers
from crib.backends.docker.nouns import LABEL_SANDBOX
from crib.backends.docker.translate import EnginePlan, engine_container, plain_limits
from crib.backends.known_processes import identity
from crib.backends.pods.namespaces import adopt_pod_namespaces
from crib.backends.pods.pods import PROGRAM, Pods
from crib.host.cgroup_limits import write_limits
from crib.host.files import remove_tree
from crib.host.threads import OURS, Job
from crib.model.errors import Broken, NotFound
from crib.model.ids import SandboxId
from crib.model.sandbox import NamespaceMode, ProcessIdentity, SandboxRecord
from crib.ocispec.infra import InfraInputs, infra_spec
from crib.ocispec.limits import limit_files
from crib.ports.clocks import StageTimer
from crib.wire import oci_runtime as oci


class DockerInfra:
    """See pods.InfraProcesses."""

    def __init__(
        self, environment: DockerEnvironment, images: EngineImages, containers: KnownContainers
    ) -> None:
        self._env = environment
        self._images = images
        self._containers = containers
        self._listed: frozenset[str] = frozenset()

    async def start(self, sandbox: SandboxId, inputs: InfraInputs, _stage: StageTimer) -> ProcessIdentity:
        what = f"the own container of sandbox {sandbox}"
        facts = await self._env.link.require()
        await OURS.run(Job(what, owner=sandbox), self._mark, sandbox)
        made = await self._create(inputs, facts.api)
        await OURS.run(Job(what, owner=sandbox), self._limit, f"{inputs.cgroups_path}/{made}", inputs)
        await self._containers.start(sandbox)
        found = await self._containers.find(sandbox)
        process = identity(found.pid) if found is not None and found.pid else None
        if process is None:
            raise Broken(f"{what} ended at once")
        return process

    def note_listed(self, names: Iterable[str]) -> None:
        """The Engine has these, whether or not anything else is left of their pods."""
        self._listed = frozenset(names)

    def exists(self, sandbox: SandboxId) -> bool:
        return sandbox in self._listed or os.path.isdir(self._env.paths.infra(sandbox))

    async def end(self, sandbox: SandboxId) -> None:
        await self._containers.remove(sandbox)
        self._listed -= {sandbox}

    def forget(self, sandbox: SandboxId) -> None:
        remove_tree(self._env.paths.infra(sandbox))

    async def _create(self, inputs: InfraInputs, api: tuple[int, int]) -> str:
        """The Engine's id. Somebody may remove the image before it is used: then once more."""
        program = f"{inputs.root}/{PROGRAM}"
        body = engine_container(self._plan(inputs, await self._images.ensure_program(program, PROGRAM), api))
        try:
            return await self._containers.create(inputs.sandbox, body)
        except NotFound:
            body["Image"] = await self._images.ensure_program(program, PROGRAM)
            return await self._containers.create(inputs.sandbox, body)

    def _plan(self, inputs: InfraInputs, image: str, api: tuple[int, int]) -> EnginePlan:
        spec = infra_spec(inputs)
        kinds = {one.type: one for one in spec.linux.namespaces}
        if not inputs.config.host_network:
            kinds |= {kind: oci.Namespace(kind) for kind in ("network", "uts")}
        if inputs.config.security.namespaces.ipc != NamespaceMode.NODE:
            kinds["ipc"] = oci.Namespace("ipc")
        linux = msgspec.structs.replace(spec.linux, namespaces=tuple(kinds.values()))
        return EnginePlan(
            spec=msgspec.structs.replace(spec, linux=linux),
            image=image,
            joined={},
            cgroup_parent=inputs.cgroups_path,
            labels=self._containers.labels(**{LABEL_SANDBOX: inputs.sandbox}),
            api=api,
            log={"Type": "none"},
            bare_network="network" in kinds,
            hostname=(inputs.config.hostname or socket.gethostname()) if "uts" in kinds else "",
        )

    def _mark(self, sandbox: SandboxId) -> None:
        os.makedirs(self._env.paths.infra(sandbox), mode=0o700, exist_ok=True)

    def _limit(self, cgroup: str, inputs: InfraInputs) -> None:
        files = limit_files(plain_limits(infra_spec(inputs)), self._env.host.cgroup_layout)
        self._env.cgroups.create(cgroup)
        write_limits(self._env.cgroups, cgroup, files)


class DockerPods(Pods):
    """Pods whose namespaces are those of their own container in the Engine."""

    def __init__(self, environment: DockerEnvironment, infra: DockerInfra) -> None:
        super().__init__(environment, infra)
        self._docker = environment
        self._begun: dict[SandboxId, ProcessIdentity] = {}

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> None:
        await self._docker.require()
        await super().prepare(record, stage)

    async def start(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """It runs since the pod was prepared."""
        return self._begun.pop(record.id, None)

    async def stop(self, record: SandboxRecord) -> None:
        self._begun.pop(record.id, None)
        await super().stop(record)

    def _needs_infra(self, record: SandboxRecord) -> bool:
        config = record.config
        return (
            not config.host_network
            or config.security.namespaces.ipc != NamespaceMode.NODE
            or config.shares_pid
        )

    async def _make_namespaces(self, record: SandboxRecord, stage: StageTimer) -> None:
        process = await super().start(record, stage)
        if process is None:
            return
        self._begun[record.id] = process
        sysctls = self._env.options.containers.sysctls
        await adopt_pod_namespaces(self._paths, record, sysctls, process.pid)
