"""The port `PodRuntime`: in memory, and namespaces, files and cgroups of this host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.errors import CribError, InvalidRequest
from crib.model.ids import new_sandbox_id
from crib.model.sandbox import NamespaceMode, Resources
from tests.contract.handler_lab import HandlerLab
from tests.fakes.world import bounded
from tests.system.labs.pod_namespaces import no_stage


@pytest.mark.parametrize("pid", [NamespaceMode.CONTAINER, NamespaceMode.POD])
async def test_a_started_pod_is_alive_until_it_is_stopped(lab: HandlerLab, pid: NamespaceMode) -> None:
    pod = await lab.pod(pid)
    async with bounded():
        assert await lab.handler.pods.alive(pod)
        assert pod.id in lab.handler.pods.netns_path(pod)
        await lab.handler.pods.stop(pod)
        assert not await lab.handler.pods.alive(pod)
        await lab.handler.pods.remove(pod)


async def test_a_pod_that_was_prepared_and_never_started_is_taken_away(lab: HandlerLab) -> None:
    record = lab.sandbox(NamespaceMode.POD)
    async with bounded():
        await lab.handler.pods.prepare(record, no_stage)
        await lab.handler.pods.stop(record)
        assert not await lab.handler.pods.alive(record)
        await lab.handler.pods.remove(record)
        assert await lab.handler.sweep(set, dry=True) == []


async def test_a_pod_that_loses_a_namespace_is_told_and_no_other(lab: HandlerLab) -> None:
    pods = {pod.id: pod for pod in [await lab.pod() for _ in range(3)]}
    whole, early, late = pods.values()
    lab.lose(early)
    losses = lab.handler.pods.losses(pods.values)
    async with bounded():
        assert await anext(losses) == early.id
        del pods[early.id]
        lab.lose(late)
        assert await anext(losses) == late.id
        await losses.aclose()  # type: ignore[attr-defined]  # both are generators
        for pod in (whole, early, late):
            await lab.handler.pods.remove(pod)


async def test_stopping_and_removing_a_pod_twice_or_unmade_is_fine(lab: HandlerLab) -> None:
    pod = await lab.pod()
    async with bounded():
        for _ in range(2):
            await lab.handler.pods.stop(pod)
        for _ in range(2):
            await lab.handler.pods.remove(pod)
        await lab.handler.pods.remove(replace(pod, id=new_sandbox_id()))


async def test_a_sysctl_of_the_host_is_refused(lab: HandlerLab) -> None:
    with pytest.raises(InvalidRequest, match="swappiness"):
        await lab.pod(vm__swappiness="1")


async def test_limits_of_a_pod_can_be_changed(lab: HandlerLab) -> None:
    pod = await lab.pod()
    limited = replace(
        pod, resources=Resources(cpu_shares=512), overhead=Resources(memory_limit_in_bytes=64 << 20)
    )
    async with bounded():
        await lab.handler.pods.update(limited)
        await lab.handler.pods.update(replace(limited, resources=Resources(cpu_shares=100)))
        await lab.handler.pods.remove(pod)
        with pytest.raises(CribError):
            await lab.handler.pods.update(limited)
