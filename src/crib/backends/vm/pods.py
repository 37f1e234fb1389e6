"""The port `PodRuntime`: a pod is a machine, which is refused what none can have, and has a size."""

from __future__ import annotations

from dataclasses import replace

from crib.backends.failures import trying
from crib.backends.pods.pods import Pods
from crib.backends.shim.infra import ShimInfra
from crib.backends.shim.pods import ShimPods
from crib.backends.shim.tools import ShimTools
from crib.backends.vm.environment import VmEnvironment
from crib.backends.vm.refusals import check_pod, check_resize
from crib.host.threads import OURS, Job
from crib.model.sandbox import ProcessIdentity, SandboxRecord
from crib.ports.clocks import StageTimer


class VmPods(ShimPods):
    """The limits of the pod's cgroup hold for its machine."""

    def __init__(self, environment: VmEnvironment, tools: ShimTools, pods: Pods, infra: ShimInfra) -> None:
        super().__init__(tools, pods, infra)
        self._env = environment

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> None:
        check_pod(record.config)
        await super().prepare(_without_quota(record), stage)

    async def start(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """A machine boots with the CPUs that it has; the pod's limit of CPU holds once it is there."""
        process = await super().start(record, stage)
        if _without_quota(record) != record:
            await super().update(record)
        return process

    async def update(self, record: SandboxRecord) -> None:
        wanted, settings = record.resources or record.config.resources, self._env.options.vm
        if wanted is not None:
            job = Job("the size of a machine", owner=record.id)
            with trying(f"limits of sandbox {record.id}"):
                size = await OURS.run(job, self._env.made_size, record.id)
            check_resize(wanted, size, settings)
        await super().update(record)


def _without_quota(record: SandboxRecord) -> SandboxRecord:
    """The same record, before it was ever updated, with a pod that may use any CPU there is."""
    wanted = record.config.resources
    if wanted is None or wanted.cpu_quota <= 0:
        return record
    return replace(
        record, config=replace(record.config, resources=replace(wanted, cpu_quota=0, cpu_period=0))
    )
