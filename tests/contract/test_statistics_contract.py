"""The port `Statistics`: in memory, and the cgroups of this host."""

from __future__ import annotations

from tests.contract.handler_lab import HandlerLab
from tests.fakes.world import bounded


async def test_usage_of_a_running_container_and_its_pod_can_be_read(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        usage = await lab.handler.statistics.container(record, pod)
        pod_usage = await lab.handler.statistics.pod(pod)
        assert usage.cgroup.cpu is not None
        assert usage.cgroup.cpu.at > 0
        assert usage.writable_layer is not None
        assert pod_usage.cgroup.cpu is not None
        await lab.gone(record)
        await lab.handler.pods.remove(pod)
