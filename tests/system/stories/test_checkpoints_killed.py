"""A cribd that is killed while it makes or restores a checkpoint, and what the next one makes of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.criu import BOUND, Gate, checkpoint, count, counter, counts_on, with_criu
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system, with_criu]


@pytest.fixture
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("criu"))


@pytest.fixture
def cribd(gate: Gate) -> Iterator[Cribd]:
    """Each story has its own: what is started anew is a new process, and it would count as left behind."""
    with running_cribd(extra=gate.settings()) as daemon:
        yield daemon


async def test_a_checkpoint_whose_cribd_is_killed_leaves_a_container_that_goes_on_and_no_file(
    cribd: Cribd, gate: Gate, tmp_path: Path
) -> None:
    async with cribd.connect() as cri:
        pod = await cri.run_pod("killed")
        container = await counter(cri, pod)
        with gate.shut():
            request = checkpoint(cri, container, tmp_path / "killed.tar")
            asked = asyncio.ensure_future(request)
            await gate.reached()
            cribd.kill()
            (tmp_path / f".killed.tar.{container[:12]}.partial").write_text("as if it had come further")
            cribd.start()
        with pytest.raises(ClientError):
            await asked
    async with cribd.connect() as again:
        await until_forgotten(again, container)
        await counts_on(again, container, await count(again, container))
    assert os.listdir(tmp_path) == []
    assert not (cribd.data / "containers" / container / "checkpoint").exists()
    async with cribd.connect() as again:
        await again.remove_pod(pod)


async def until_forgotten(cri: Cri, container: str) -> None:
    request = pb.ContainerStatusRequest(container_id=container, verbose=True)
    async with asyncio.timeout(BOUND):
        while True:
            answer = await cri.call(cri.runtime.ContainerStatus, request)
            if not json.loads(answer.info["info"])["record"]["checkpointing"]:
                return
            await asyncio.sleep(0.05)  # what is undone behind the gate tells nobody


async def test_a_restore_whose_cribd_is_killed_is_ended_and_told_as_lost(
    cribd: Cribd, gate: Gate, tmp_path: Path
) -> None:
    location = tmp_path / "counter.tar"
    async with cribd.connect() as cri:
        old = await cri.run_pod("old")
        await checkpoint(cri, await counter(cri, old), location)
        pod = await cri.run_pod("new")
        begun = await cri.create(pod, name="begun", image=str(location))
        waits = await cri.create(pod, name="waits", image=str(location))
        with gate.shut():
            asked = asyncio.ensure_future(cri.start(begun))
            await gate.reached()
            cribd.kill()
            cribd.start()
        with pytest.raises(ClientError):
            await asked
    async with cribd.connect() as again:
        status = await again.exited(begun)
        assert (status.exit_code, status.reason) == (255, "Unknown")
        await again.remove_container(begun)
        assert (await again.status(waits)).state == pb.CONTAINER_CREATED
        await again.start(waits)
        await counts_on(again, waits, await count(again, waits))
        await again.remove_pod(old)
        await again.remove_pod(pod)
