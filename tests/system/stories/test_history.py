"""What was: events from a cursor and timelines, across kill -9 of the daemon, and readers of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crib.client import Connection, events, node
from crib.client.errors import ClientError
from crib.stubs.node.v1.node_pb2 import Event, EventsCut, EventsRequest
from tests.system.labs.daemon import Cri, Cribd, crib, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

LIFE = ["created", "started", "stopped", "deleted"]
POD_LIFE = LIFE[1:]
SEED = 14


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    """Each story has its own, as it is killed."""
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def kept(cri: Cri, **wanted: object) -> list[Event]:
    request = EventsRequest(**wanted)  # type: ignore[arg-type]  # fields by name
    answers = events.kept(cri.connection, request)
    return [event async for answer in answers for event in answer.events]


def written_timeline(cribd: Cribd, pod: str) -> bytes:
    """What a kill of the daemon leaves of it: all but the last second."""
    with contextlib.closing(sqlite3.connect(cribd.boot_records)) as connection:
        rows = connection.execute("SELECT record FROM kept WHERE id = ?", (f"timelines/{pod}",)).fetchall()
    return b"".join(row[0] for row in rows)


async def test_a_pods_life_is_told_and_timed_across_kill_9(cri: Cri, cribd: Cribd, tmp_path: Path) -> None:
    pod = await cri.run_pod("web")
    box = await cri.run_container(pod, "sleep", "1000")
    before = await kept(cri, pod="web")
    assert [(one.kind, one.action) for one in before] == [
        ("pod", "started"),
        ("container", "created"),
        ("container", "started"),
    ]
    assert before[0].message == (await cri.pod_status(pod)).network.ip
    await until(lambda: b"StartContainer" in written_timeline(cribd, pod.id))
    cribd.kill()
    cribd.start()
    async with cribd.connect() as again:
        assert await kept(again, pod="web") == before
        await again.stop_container(box)
        await again.remove_pod(pod)
        after = await kept(again, after=before[-1].number)
        assert [(one.kind, one.action) for one in after] == [
            ("node", "started"),
            ("container", "stopped"),
            ("pod", "stopped"),
            ("container", "deleted"),
            ("pod", "deleted"),
        ]
        assert after[1].exit_code == 137
        told = await node.timeline(again.connection, pod.id)
        stages = {stage.name: stage for stage in told.stages}
        assert {
            "RunPodSandbox",
            "CreateContainer",
            "StartContainer",
            "StopContainer",
            "ended",
        } <= stages.keys()
        started = stages["start"] if "start" in stages else stages["StartContainer"]
        assert (started.program.startswith(("crun", "runc")), started.program_cpu_ns > 0) == (True, True)
        assert 0 < started.program_ns <= started.duration_ns
    shown = await asyncio.to_thread(crib, cribd, tmp_path, "timeline", "web")
    assert (shown.returncode, "later" in shown.stdout or "StopContainer" in shown.stdout) == (0, True)
    page = tmp_path / "web.html"
    assert (
        await asyncio.to_thread(crib, cribd, tmp_path, "timeline", "web", "--html", str(page))
    ).returncode == 0
    assert "StopContainer" in page.read_text()
    lines = (await asyncio.to_thread(crib, cribd, tmp_path, "events", "--json", "--pod", "web")).stdout
    assert [json.loads(line)["action"] for line in lines.splitlines()][:3] == [
        "started",
        "created",
        "started",
    ]


@dataclass
class Reader:
    """Somebody who reads events: what it got of each object, and whether the stream said that it was cut."""

    name: str
    got: dict[str, list[str]] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    cuts: list[EventsCut] = field(default_factory=list)

    def take(self, found: Event | EventsCut) -> None:
        if isinstance(found, EventsCut):
            self.cuts.append(found)
            return
        self.numbers.append(found.number)
        if found.kind in ("pod", "container"):
            self.got.setdefault(found.id, []).append(found.action)


async def follower(reader: Reader, endpoint: str, pause: Callable[[], float]) -> None:
    """Follows for ever; a slow one rests after each event."""
    async for found in events.follow(Connection(endpoint), EventsRequest(since=1), patience=600):
        reader.take(found)
        if (seconds := pause()) > 0:
            await asyncio.sleep(seconds)  # how a slow reader is slow; no outcome hangs on it


async def comer_and_goer(reader: Reader, endpoint: str, chance: random.Random) -> None:
    """Reads a few answers of one call, goes away in the middle, and goes on by its cursor."""
    cursor = 0
    while True:
        left = chance.randrange(1, 4)
        with contextlib.suppress(ClientError):
            async with contextlib.AsyncExitStack() as stack:
                connection = await stack.enter_async_context(Connection(endpoint))
                answers = events.kept(connection, EventsRequest(after=cursor))
                async for answer in answers:
                    if answer.HasField("cut"):
                        reader.take(answer.cut)
                    for event in answer.events:
                        reader.take(event)
                    cursor = answer.cursor or cursor
                    left -= 1
                    if not left:
                        break
        await asyncio.sleep(0.05)  # the pause before the next try


async def stubborn(cribd: Cribd, work: Callable[[Cri], Coroutine[object, object, object]]) -> None:
    """As a kubelet: again and again until it is done, by another daemon if need be."""

    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(ClientError):
                async with cribd.connect() as cri:
                    await work(cri)
                    return
            await asyncio.sleep(0.05)  # the pause before the next try


async def life(cribd: Cribd, name: str) -> None:
    """One pod with one container, from its start to nothing."""

    async def begin(cri: Cri) -> None:
        pod = await cri.run_pod(name)
        await cri.start(await cri.create(pod, "sleep", "1000"))

    async def end(cri: Cri) -> None:
        for box, found in (await cri.sandboxes()).items():
            if found.metadata.name == name:
                await cri.stop_pod(box)
                await cri.remove_pod(box)

    await stubborn(cribd, begin)
    await stubborn(cribd, end)


@pytest.mark.parametrize(
    ("lives", "kills"), [(6, 2), pytest.param(300, 25, marks=pytest.mark.nightly)], ids=["some", "many"]
)
async def test_every_start_and_end_arrives_once_at_readers_of_every_kind_however_often_the_daemon_is_killed(
    cri: Cri, cribd: Cribd, lives: int, kills: int
) -> None:
    chance = random.Random(SEED)
    endpoint = cri.connection.endpoint
    quick, slow, goer = Reader("quick"), Reader("slow"), Reader("comes and goes")
    reading = [
        asyncio.ensure_future(follower(quick, endpoint, lambda: 0.0)),
        asyncio.ensure_future(follower(slow, endpoint, lambda: chance.random() * 0.02)),
        asyncio.ensure_future(comer_and_goer(goer, endpoint, chance)),
    ]
    waiting = [f"life-{number}" for number in range(lives)]

    async def worker() -> None:
        while waiting:
            await life(cribd, waiting.pop())

    working = asyncio.gather(*(worker() for _ in range(3)))
    for kill in range(kills):
        goal = lives - (kill + 1) * lives // (kills + 1)
        await until(lambda goal=goal: len(waiting) <= goal or working.done())
        cribd.kill()
        await asyncio.to_thread(cribd.start)
    async with asyncio.timeout(600):
        await working
    async with cribd.connect() as last:
        everything = await kept(last)
    for reader in (quick, slow, goer):
        await until(lambda reader=reader: reader.numbers and reader.numbers[-1] == everything[-1].number)
    for one in reading:
        one.cancel()
    await asyncio.wait(reading)
    pods = Counter(event.action for event in everything if event.kind == "pod")
    assert pods["started"] >= lives
    for reader in (quick, slow, goer):
        assert reader.cuts == [], reader.name
        assert reader.numbers == [event.number for event in everything], reader.name
        for of, actions in reader.got.items():
            whole = POD_LIFE if actions[0] == "started" else LIFE
            assert actions in (whole, ["created", "stopped", "deleted"]), (reader.name, of, actions)


async def test_a_reader_that_stayed_away_too_long_is_told_where_it_goes_on(cri: Cri, cribd: Cribd) -> None:
    request = EventsRequest(after=1)
    answers = [answer async for answer in events.kept(cri.connection, request)]
    assert answers[0].cut.after == 1
    assert answers[0].cut.resumes_at == answers[0].events[0].number
