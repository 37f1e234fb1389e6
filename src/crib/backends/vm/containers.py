"""The port `ContainerRuntime`: containers of a machine, within its size."""

from __future__ import annotations

from crib.backends.failures import trying
from crib.backends.shim.containers import ContainerMaking
from crib.backends.shim.exits import ShimExits
from crib.backends.shim.lives import ShimContainers
from crib.backends.shim.tools import ShimTools
from crib.backends.vm.disks import VmDisks
from crib.backends.vm.environment import VmEnvironment
from crib.backends.vm.refusals import check_container, check_limits
from crib.backends.vm.sizes import MachineSize
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.ids import SandboxId
from crib.model.sandbox import Resources
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest


class VmContainerMaking(ContainerMaking):
    """With disks."""

    def __init__(self, tools: ShimTools, exits: ShimExits, disks: VmDisks) -> None:
        super().__init__(tools, exits)
        self.disks = disks

    async def _prepare(self, request: CreateRequest, stage: StageTimer) -> None:
        with stage("disk", request.record.config.name):
            await self.disks.prepare(request.record)


class VmContainers(ShimContainers):
    """What a machine cannot give is refused before anything is made."""

    def __init__(
        self, environment: VmEnvironment, tools: ShimTools, exits: ShimExits, containers: VmContainerMaking
    ) -> None:
        super().__init__(tools, exits, containers)
        self._machines = environment
        self._making = containers

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        size = await self._size(request.sandbox.id)
        check_container(request.record.config, size, self._machines.options.vm)
        await self._making.disks.check(request.record)
        return await super().create(request, stage)

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        size = await self._size(record.sandbox_id)
        check_limits(resources, size, self._machines.options.vm)
        await super().update(record, resources)

    async def _size(self, sandbox: SandboxId) -> MachineSize:
        job = Job("the size of a machine", owner=sandbox)
        with trying(f"looking at the machine of sandbox {sandbox}"):
            return await OURS.run(job, self._machines.made_size, sandbox)
