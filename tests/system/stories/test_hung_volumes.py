"""Host paths on file systems that do not answer: their own containers wait, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.hung_mount import hung_mount, mount_that_hangs_later, mount_that_makes_no_file
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

VERB_TIME = 6.0
BOUND = 60.0
"""Seconds for what takes milliseconds, or a verb's limit, or waits for ever."""
PODS, EACH = ("a", "b", "c"), 3


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra=f"verb_timeout = {VERB_TIME}\nmaking_verbs = 16") as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def hanging(cribd: Cribd) -> int:
    """Threads of the daemon that wait for a FUSE server."""
    found = 0
    for task in Path(f"/proc/{cribd.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += "fuse" in (task / "stack").read_text()
    return found


async def test_creates_on_a_path_that_does_not_answer_hold_up_nobody_and_leave_nothing(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    before = cribd.leftovers()
    hung = tmp_path / "nfs"
    hung.mkdir()
    pods = [await cri.run_pod(name) for name in PODS]
    wanted = [(pod, f"box{number}", f"{hung}/{pod.id}-{number}") for pod in pods for number in range(EACH)]

    def create(pod: Pod, name: str, path: str) -> asyncio.Future[str]:
        mount = pb.Mount(container_path="/data", host_path=path)
        return asyncio.ensure_future(cri.create(pod, "true", name=name, mounts=[mount]))

    with hung_mount(hung):
        creates = [create(*one) for one in wanted]
        await until(lambda: hanging(cribd) == len(creates), BOUND)
        async with asyncio.timeout(BOUND):
            await cri.call(cri.runtime.Version, pb.VersionRequest())
            await cri.call(cri.runtime.Status, pb.StatusRequest())
            await cri.call(cri.image.ImageFsInfo, pb.ImageFsInfoRequest())
            assert await cri.containers() == {}
            other = await cri.run_pod("other")
            box = await cri.run_container(other, "sleep", "1000")
            assert await cri.sh(box, "echo fine") == "fine"
            await cri.stop_container(box)
            await cri.remove_pod(other)
        assert hanging(cribd) == len(creates), "all that was while they hung"
        async with asyncio.timeout(BOUND):
            await asyncio.gather(*(cri.remove_pod(pod) for pod in pods))
            outcomes = await asyncio.gather(*creates, return_exceptions=True)
        for outcome, (_pod, _name, path) in zip(outcomes, wanted, strict=True):
            assert isinstance(outcome, ClientError)
            assert outcome.code == "UNAVAILABLE", outcome
            assert f"takes more than {VERB_TIME:g} s" in outcome.message
            assert outcome.message.startswith("config.mounts[0].host_path: ")
            assert outcome.message.endswith(f"(at {path})")
        cribd.settle(before)
        assert hanging(cribd) == len(creates)
    await until(lambda: hanging(cribd) == 0, BOUND)
    cribd.settle(before)


async def test_a_pod_that_asks_again_and_again_for_what_hangs_is_refused_at_once_and_others_are_not(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    hung = tmp_path / "nfs"
    hung.mkdir()
    pod = await cri.run_pod("again")

    async def refused(number: int) -> str:
        mount = pb.Mount(container_path="/data", host_path=str(hung / str(number)))
        with pytest.raises(ClientError) as caught:
            await cri.create(pod, "true", name=f"box{number}", mounts=[mount])
        return str(caught.value)

    with hung_mount(hung):
        async with asyncio.timeout(BOUND):
            first = await asyncio.gather(*(refused(number) for number in range(4)))
            assert all("takes more than" in words for words in first)
            assert "not tried, as 4 threads hang in such work" in await refused(5)
            box = await cri.run_container(await cri.run_pod("other"), "sleep", "1000")
            assert await cri.sh(box, "echo fine") == "fine"
    await until(lambda: hanging(cribd) == 0, BOUND)
    await cri.create(pod, "true", name="box5")


async def test_a_monitor_that_hangs_in_making_its_log_costs_that_create_alone(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    before = cribd.leftovers()
    logs = tmp_path / "logs"
    pod = await cri.run_pod("pod", log_directory=str(logs))
    with mount_that_makes_no_file(logs) as waits:
        create = asyncio.ensure_future(cri.create(pod, "true"))
        await until(waits.is_set, BOUND)
        async with asyncio.timeout(BOUND):
            other = await cri.run_pod("other")
            box = await cri.run_container(other, "sleep", "1000")
            assert await cri.sh(box, "echo fine") == "fine"
            with pytest.raises(ClientError, match=f"did not answer within {VERB_TIME:.0f} s"):
                await create
            await cri.remove_pod(pod)
            await cri.remove_pod(other)
    cribd.settle(before)


async def test_a_container_whose_volume_dies_can_be_looked_at_stopped_and_removed(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    pod = await cri.run_pod("pod")
    with mount_that_hangs_later(volume) as hangs:
        mount = pb.Mount(container_path="/data", host_path=str(volume))
        box = await cri.run_container(
            pod, "sh", "-c", "ls /data && echo hello; exec sleep 1000", mounts=[mount]
        )
        log = cribd.logs / "pod" / "box.log"
        await until(lambda: "hello" in log.read_text(), BOUND)
        hangs.set()
        async with asyncio.timeout(BOUND):
            assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
            reopen = pb.ReopenContainerLogRequest(container_id=box)
            await cri.call(cri.runtime.ReopenContainerLog, reopen)
            stats = pb.ContainerStatsRequest(container_id=box)
            assert (await cri.call(cri.runtime.ContainerStats, stats)).stats.attributes.id == box
            assert await cri.sh(box, "echo fine") == "fine"
            await cri.stop_container(box)
            assert (await cri.status(box)).state == pb.CONTAINER_EXITED
            await cri.remove_container(box)
            await cri.remove_pod(pod)
