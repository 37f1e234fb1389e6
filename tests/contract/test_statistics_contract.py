"""The port `Statistics`: in memory, and the cgroups of this host."""

from __future__ import annotations

from crib.model.stats import CgroupUsage
from tests.contract.handler_lab import HandlerLab
from tests.fakes.world import bounded


async def test_usage_of_many_containers_and_pods_is_read_in_one_go(lab: HandlerLab) -> None:
    pod, empty = await lab.pod(), await lab.pod()
    first, second = await lab.running(pod), await lab.running(pod)
    async with bounded():
        usages = await lab.handler.statistics.containers([(first, pod), (second, pod)])
        pods = await lab.handler.statistics.pods([empty, pod])
        assert len(usages) == 2
        for usage in usages:
            assert usage.cgroup.cpu is not None
            assert usage.cgroup.cpu.at > 0
            assert usage.cgroup.memory is not None
            assert usage.writable_layer is not None
        processes = [usage.processes for usage in pods]
        assert all(found is not None and found.processes is not None for found in processes)
        assert [usage.cpu is not None for usage in pods] == [True, True]
        for record in (first, second):
            await lab.gone(record)
        for each in (pod, empty):
            await lab.handler.pods.remove(each)


async def test_a_whole_reading_has_what_an_ordinary_one_leaves_out(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        (usage,) = await lab.handler.statistics.containers([(record, pod)], whole=True)
        (of_pod,) = await lab.handler.statistics.pods([pod], whole=True)
        (ordinary,) = await lab.handler.statistics.containers([(record, pod)])
        inside = lab.handler.facts.own_kernel  # which tells less of each container
        for cgroup in (of_pod,) if inside else (usage.cgroup, of_pod):
            assert cgroup.cpu is not None
            assert cgroup.cpu.user is not None
            assert cgroup.memory is not None
            assert cgroup.memory.parts is not None
            assert cgroup.oom_kills == 0
        if not inside:
            assert usage.cgroup.processes is not None
            assert usage.cgroup.processes.processes == 1
        else:  # that kernel's word, and not the cgroup of what stands in for the container
            assert usage.cgroup.processes is None or usage.cgroup.processes.processes == 1
            assert usage.cgroup.memory is not None
        assert ordinary.cgroup.cpu is not None
        assert (ordinary.cgroup.cpu.user, ordinary.cgroup.processes, ordinary.cgroup.oom_kills) == (None,) * 3
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_what_is_gone_has_no_figures_and_spoils_those_of_nobody_else(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record, missing = await lab.running(pod), lab.container(pod)
    async with bounded():
        usage, nothing = await lab.handler.statistics.containers([(record, pod), (missing, pod)])
        assert usage.cgroup.cpu is not None
        assert nothing.cgroup == CgroupUsage()
        await lab.gone(record)
        await lab.handler.pods.remove(pod)
