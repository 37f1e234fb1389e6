"""A program that never answers costs its own pod, and nobody else; what became of it is told and mended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.daemon import Cri, Cribd, running_cribd
from tests.system.hanging_programs import HangingPrograms

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def programs(tmp_path: Path, request: pytest.FixtureRequest) -> HangingPrograms:
    return HangingPrograms(tmp_path, kind=getattr(request, "param", "crun"))


@pytest.fixture
def cribd(programs: HangingPrograms) -> Iterator[Cribd]:
    with running_cribd(extra=programs.settings()) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd, programs: HangingPrograms) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        try:
            yield connection
        finally:
            programs.release_all()


async def test_a_restart_asks_no_runtime_how_its_containers_are(
    cri: Cri, cribd: Cribd, programs: HangingPrograms
) -> None:
    pod = await cri.run_pod("pod")
    runs, created = (
        await cri.run_container(pod, "sleep", "100", name="runs"),
        await cri.create(pod, "sleep", "9"),
    )
    cribd.kill()
    cribd.start()
    states = {box: item.state for box, item in (await cri.containers()).items()}
    assert states == {runs: pb.CONTAINER_RUNNING, created: pb.CONTAINER_CREATED}
    assert programs.calls("state") == []
    await cri.start(created)


@pytest.mark.parametrize("programs", ["another"], indirect=True)
async def test_a_runtime_that_never_says_how_its_containers_are_does_not_hold_up_a_restart(
    cri: Cri, cribd: Cribd, programs: HangingPrograms
) -> None:
    """One of another kind: how crun and runc keep their states is known."""
    stuck = await cri.run_container(await cri.run_pod("stuck"), "sleep", "100")
    fine = await cri.run_container(await cri.run_pod("fine"), "sleep", "100")
    cribd.kill()
    programs.hang("state", stuck)
    cribd.start()
    assert f"without container {stuck}: they go on" in cribd.log()
    assert await cri.sh(fine, "echo well") == "well"
    assert (await cri.status(stuck)).state in (pb.CONTAINER_RUNNING, pb.CONTAINER_UNKNOWN)
