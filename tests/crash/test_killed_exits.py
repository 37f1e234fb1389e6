"""kill -9 of cribd in the moment in which many containers end: each exit code is right, and told once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, default_shim, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

SCRIPT = "until [ -e /told/go ]; do sleep 0.01; done; exit {code}"
BOUND = 60.0


@pytest.fixture(params=["oci", "shim"])
def cribd(request: pytest.FixtureRequest) -> Iterator[Cribd]:
    with running_cribd(extra=default_shim() if request.param == "shim" else "") as daemon:
        yield daemon


class Stops:
    """STOPPED events of one life of the daemon, by container."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._news = asyncio.Event()

    @asynccontextmanager
    async def heard(self, cri: Cri) -> AsyncIterator[Stops]:
        """Listen within the block; what happened before is not told."""
        stream = cri.runtime.GetContainerEvents(pb.GetEventsRequest())
        await stream.initial_metadata()
        listening = asyncio.ensure_future(self._listen(aiter(stream)))
        try:
            yield self
        finally:
            stream.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, stream: AsyncIterator[pb.ContainerEventResponse]) -> None:
        async for event in stream:
            if event.container_event_type == pb.CONTAINER_STOPPED_EVENT:
                self.counts[event.container_id] += 1
                self._news.set()

    async def of_all(self, containers: set[str]) -> None:
        """Returns when each of these has stopped."""
        async with asyncio.timeout(BOUND):
            while not containers <= set(self.counts):
                self._news.clear()
                await self._news.wait()


async def end_and_kill(cribd: Cribd, told: Path, boxes: list[str], delay: float) -> None:
    """All end at once, and the daemon is killed `delay` seconds after they were told to."""
    async with cribd.connect() as cri, Stops().heard(cri) as first:
        stopping = [asyncio.ensure_future(cri.stop_container(box, grace=60)) for box in boxes[::3]]
        (told / "go").touch()
        await asyncio.sleep(delay)  # the moment of the kill: at any of them the rest must hold
        await asyncio.to_thread(cribd.kill)
        outcomes = await asyncio.gather(*stopping, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, ClientError) for outcome in outcomes), outcomes
    assert set(first.counts.values()) <= {1}, first.counts


async def check_next_life(cribd: Cribd, boxes: list[str], began: int) -> None:
    async with cribd.connect() as cri, Stops().heard(cri) as second:
        states = await cri.containers()
        running = {box for box in boxes if states[box].state == pb.CONTAINER_RUNNING}
        async with asyncio.timeout(BOUND):
            await asyncio.gather(*(cri.stop_container(box, grace=60) for box in boxes))
        await second.of_all(running)
        for number, box in enumerate(boxes):
            status = await cri.status(box)
            assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, number + 1), status
            assert status.reason == "Error"
            assert began <= status.finished_at <= time.time_ns()
            assert status.started_at < status.finished_at
            await cri.remove_container(box)
    assert set(second.counts.values()) <= {1}, second.counts


async def one_round(cribd: Cribd, pod: Pod, told: Path, count: int, delay: float) -> None:
    (told / "go").unlink(missing_ok=True)
    mount = pb.Mount(container_path="/told", host_path=str(told), readonly=True)
    async with cribd.connect() as cri:
        boxes = [
            await cri.run_container(
                pod, "sh", "-c", SCRIPT.format(code=number + 1), name=f"box{number}", mounts=[mount]
            )
            for number in range(count)
        ]
    # The kernel stamps files with the time of its last tick, some milliseconds ago.
    began = time.time_ns() - 20_000_000
    await end_and_kill(cribd, told, boxes, delay)
    await asyncio.to_thread(cribd.start)
    await check_next_life(cribd, boxes, began)


@pytest.mark.parametrize(
    ("count", "delays"),
    [
        (8, (0.01,)),
        pytest.param(30, tuple(step / 200 for step in range(20)), marks=pytest.mark.nightly),
    ],
    ids=["few", "many"],
)
async def test_containers_that_end_as_the_daemon_is_killed_have_their_exit_codes_and_are_told_once(
    cribd: Cribd, tmp_path: Path, count: int, delays: tuple[float, ...]
) -> None:
    tmp_path.chmod(0o777)
    async with cribd.story() as cri:
        pod = await cri.run_pod("ends")
        for delay in delays:
            await one_round(cribd, pod, tmp_path, count, delay)
