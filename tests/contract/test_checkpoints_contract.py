"""What every handler that makes checkpoints keeps to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.model.checkpoint_settings import CheckpointSettings
from crib.model.container import ContainerRecord, ContainerSecurity, ContainerState
from crib.model.errors import InvalidRequest
from crib.model.image import ImageConfig
from crib.model.sandbox import NamespaceMode, NamespaceOptions, SandboxRecord
from crib.ports.checkpoints import Checkpoints, CheckpointSource, Packing
from crib.ports.containers import CreateRequest, RestoredProcesses
from tests.contract.handler_lab import FOREVER, HandlerLab
from tests.fakes.clock import ManualClock
from tests.fakes.handler import FakeHandler
from tests.fakes.host import FakeHost
from tests.fakes.world import bounded
from tests.system.labs.criu import CRIU, with_criu
from tests.system.labs.oci_setup import oci_lab
from tests.system.labs.pod_namespaces import no_stage

OWN_PIDS = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER))


@pytest.fixture(
    params=["fake", pytest.param("runc and criu", marks=[pytest.mark.root, pytest.mark.system, with_criu])]
)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[HandlerLab]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "fake":
            clock = ManualClock()
            made = HandlerLab(FakeHandler(clock, FakeHost(clock)), "/logs")
        else:
            settings = CheckpointSettings(criu=CRIU)
            real = await stack.enter_async_context(oci_lab("runc", checkpoints=settings))
            made = HandlerLab(real.handler, real.logs)
        stack.push_async_callback(made.close)
        yield made


def checkpoints(lab: HandlerLab) -> Checkpoints:
    assert lab.handler.checkpoints is not None
    assert not lab.handler.facts.checkpoint_problem
    return lab.handler.checkpoints


def container(lab: HandlerLab, sandbox: SandboxRecord) -> ContainerRecord:
    record = lab.container(sandbox, *FOREVER)
    return replace(record, config=replace(record.config, security=OWN_PIDS))


async def running(lab: HandlerLab, sandbox: SandboxRecord) -> ContainerRecord:
    record = container(lab, sandbox)
    async with bounded():
        request = CreateRequest(record, sandbox, ImageConfig(env=("PATH=/bin",)))
        made = await lab.handler.containers.create(request, no_stage)
        record = replace(record, state=ContainerState.CREATED, process=made.process, user=made.user)
        record = replace(record, monitor=made.monitor)
        await lab.handler.containers.start(record)
    return replace(record, state=ContainerState.RUNNING)


async def captured(lab: HandlerLab, record: ContainerRecord) -> None:
    await checkpoints(lab).pause(record)
    await checkpoints(lab).capture(record)
    await checkpoints(lab).resume(record)


async def packed(lab: HandlerLab, record: ContainerRecord, directory: Path) -> str:
    """The archive of a container; it has its name, and nothing else is left."""
    location = f"{directory}/app.tar"
    await captured(lab, record)
    await checkpoints(lab).pack(Packing(record, location, 1_000_000_000, 60))
    await checkpoints(lab).publish(record, location)
    await checkpoints(lab).discard(record, location)
    return location


async def test_an_archive_has_its_name_when_it_is_published_and_the_container_goes_on(
    lab: HandlerLab, tmp_path: Path
) -> None:
    sandbox = await lab.pod()
    record = await running(lab, sandbox)
    await checkpoints(lab).check_empty(str(tmp_path))
    location = await packed(lab, record, tmp_path)
    assert await checkpoints(lab).archives(str(tmp_path)) == {"app": location}
    assert (await lab.handler.containers.observe(record)).status == "running"
    with pytest.raises(InvalidRequest) as refused:
        await checkpoints(lab).check_empty(str(tmp_path))
    assert refused.value.field == "output_path"
    await checkpoints(lab).withdraw(location)
    await checkpoints(lab).check_empty(str(tmp_path))
    await lab.gone(record)
    await lab.handler.pods.remove(sandbox)


async def test_what_is_discarded_leaves_nothing_and_may_be_discarded_again(
    lab: HandlerLab, tmp_path: Path
) -> None:
    sandbox = await lab.pod()
    record = await running(lab, sandbox)
    location = f"{tmp_path}/app.tar"
    await checkpoints(lab).pause(record)
    await checkpoints(lab).discard(record, location)
    await captured(lab, record)
    await checkpoints(lab).pack(Packing(record, location, 1_000_000_000, 60))
    for _ in range(2):
        await checkpoints(lab).discard(record, location)
        await checkpoints(lab).check_empty(str(tmp_path))
    assert os.listdir(tmp_path) == []
    assert (await lab.handler.containers.observe(record)).status == "running"
    await lab.gone(record)
    await checkpoints(lab).discard(record, location)
    await lab.handler.pods.remove(sandbox)


async def test_a_container_of_an_archive_has_its_processes_from_its_start_on(
    lab: HandlerLab, tmp_path: Path
) -> None:
    sandbox = await lab.pod()
    first = await running(lab, sandbox)
    source = CheckpointSource(path=await packed(lab, first, tmp_path))
    await lab.gone(first)
    found = await checkpoints(lab).inspect(source)
    assert (found.container, found.images[0]) == ("app", first.image_id)
    record = replace(container(lab, sandbox), restored_from=source.path)
    request = CreateRequest(record, sandbox, ImageConfig(env=("PATH=/bin",)), restore=source)
    async with bounded():
        made = await lab.handler.containers.create(request, no_stage)
    assert (made.process, made.monitor) == (None, None)
    record = replace(record, state=ContainerState.CREATED, user=made.user)
    seen = await lab.handler.containers.observe(record)
    assert (seen.status, seen.exit, seen.monitor_alive) == ("created", None, True)
    async with bounded():
        begun = await lab.handler.containers.start(record)
    assert isinstance(begun, RestoredProcesses)
    record = replace(record, state=ContainerState.RUNNING, process=begun.process, monitor=begun.monitor)
    assert (await lab.handler.containers.observe(record)).status == "running"
    await lab.gone(record)
    await lab.handler.pods.remove(sandbox)


async def test_what_is_no_checkpoint_is_refused(lab: HandlerLab, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await checkpoints(lab).inspect(CheckpointSource(path=f"{tmp_path}/missing.tar"))
    assert refused.value.field == "image.image"
