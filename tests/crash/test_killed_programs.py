"""kill -9 of the programs that cribd starts, in the middle of their work: a clear error, and nothing left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.crash.hunting import hunting
from tests.images import Entry, busybox_image, write_saved_archive
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def failure(call: Awaitable[object]) -> ClientError | None:
    """What the call failed with."""
    try:
        await call
    except ClientError as error:
        return error
    return None


@pytest.mark.parametrize("after", [0.0, 0.001, 0.002, 0.004])
@pytest.mark.parametrize("word", ["/conmon", "\0create\0"])
async def test_a_create_whose_program_is_killed_fails_and_the_retry_succeeds(
    cri: Cri, cribd: Cribd, word: str, after: float
) -> None:
    pod = await cri.run_pod("pod")
    before = cribd.leftovers()
    with hunting(cribd.pid, word, after=after) as killed:
        error = await failure(cri.create(pod, "sleep", "100"))
    if error:  # else the program was faster than the hunter
        assert killed
        assert error.code == "INTERNAL", error
        assert "create of container" in error.message
        assert await cri.containers() == {}
        cribd.settle(before)
        box = await cri.create(pod, "sleep", "100")
        await cri.start(box)
        assert await cri.sh(box, "echo fine") == "fine"


async def test_a_start_whose_program_is_killed_is_told_and_the_container_can_be_removed(
    cri: Cri, cribd: Cribd
) -> None:
    pod = await cri.run_pod("pod")
    before = cribd.leftovers()
    for _ in range(5):
        box = await cri.create(pod, "sleep", "100")
        with hunting(cribd.pid, "\0start\0"):
            error = await failure(cri.start(box))
        assert error is None or "start of container" in error.message
        state = (await cri.status(box)).state
        assert state == (pb.CONTAINER_EXITED if error else pb.CONTAINER_RUNNING)
        await cri.remove_container(box)
        cribd.settle(before)


@pytest.mark.parametrize("after", [0.0, 0.1, 0.25])
async def test_an_import_whose_worker_is_killed_fails_and_the_next_one_succeeds(
    cri: Cri, cribd: Cribd, tmp_path: Path, after: float
) -> None:
    name = "registry.test/killed:1"
    image = busybox_image([Entry("own", os.urandom(16) * 2_000_000)], name=name)
    archive = write_saved_archive(tmp_path / "image.tar", [image])
    with hunting(cribd.pid, "images.worker.main", after=after, newcomers=False) as killed:
        error = await failure(cri.import_archive(archive))
    if error:
        assert killed
        assert error.code == "UNAVAILABLE"
        assert "image worker" in error.message
        assert name not in await cri.image_names()
    # The hunt may have met a worker after its work. Half a layer that a dead one left goes with the next.
    if await failure(cri.import_archive(archive)):
        await cri.import_archive(archive)
    assert name in await cri.image_names()
    await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))
