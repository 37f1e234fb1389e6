"""The port `Handler`: in memory, and crun with conmon in roots and a cgroup of its own."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from crib.backends.docker import exec as docker_exec
from crib.backends.oci import exec as oci_exec
from crib.backends.shim import exec as shim_exec
from crib.model.streams import ExecProcess
from tests.contract.handler_lab import FOREVER, HandlerLab, finish
from tests.fakes.handler import FakeHandler
from tests.fakes.world import bounded

LOOSE = ExecProcess(FOREVER, stdout=True)
SLEEP = replace(LOOSE, contained=True)


async def test_a_handler_whose_programs_are_there_is_ready(lab: HandlerLab) -> None:
    readiness = await lab.handler.readiness()
    assert readiness.ready == (not lab.handler.facts.problem), readiness


async def test_a_sweep_takes_what_is_not_known_and_leaves_the_rest(lab: HandlerLab) -> None:
    kept, lost = await lab.pod(), await lab.pod()
    stays, goes = await lab.running(kept), await lab.running(lost)
    async with bounded():
        told = await lab.handler.sweep(lambda: {kept.id, stays.id})
        assert any(goes.id in line for line in told)
        assert any(lost.id in line for line in told)
        assert not any(kept.id in line or stays.id in line for line in told)
        assert (await lab.handler.containers.observe(stays)).status == "running"
        assert (await lab.handler.containers.observe(goes)).status == "gone"
        assert not await lab.handler.pods.alive(lost)
        await lab.gone(stays)
        await lab.handler.pods.remove(kept)


async def test_a_sweep_ends_contained_commands_of_an_earlier_daemon_and_no_others(
    lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        with monkeypatch.context() as patch:
            names = itertools.count()
            for kind in (docker_exec, oci_exec, shim_exec):
                patch.setattr(kind, "new_name", lambda: f"exec-abc-{next(names)}")
            contained, other = [
                await lab.handler.streams.exec(record, SLEEP),
                await lab.handler.streams.exec(record, LOOSE),
            ]
        again = lab.handler.restarted() if isinstance(lab.handler, FakeHandler) else lab.handler
        now = await again.streams.exec(record, SLEEP)
        await again.sweep(lambda: {pod.id, record.id})
        assert (await finish(contained))[0] == 137
        for session in (now, other):
            _, waiting = await asyncio.wait([asyncio.ensure_future(session.wait())], timeout=0.05)
            assert waiting
            await session.kill()
            await finish(session)
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_handler_without_pods_can_be_dismantled(lab: HandlerLab) -> None:
    pod = await lab.pod()
    async with bounded():
        await lab.handler.pods.remove(pod)
        await lab.handler.dismantle()


async def test_facts_say_what_the_program_is(lab: HandlerLab) -> None:
    assert lab.handler.facts.name in {"crun", "runsc"}
    assert lab.handler.facts.oci_version.startswith("1.")
