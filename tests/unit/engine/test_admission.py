"""Admission: whose turn it is, what passes by, and who leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from crib.engine import admission as module
from crib.engine.admission import HOLD_LIMIT, NEW_POD_WAITS, Admission, AdmittedJoins, Claim
from crib.model.errors import Exhausted, Unavailable, WrongState
from crib.model.ids import SandboxId
from crib.model.sandbox import SandboxState
from crib.model.settings import Settings
from crib.tasks.calls import CallUnderWay, enter
from crib.tasks.keeper import TaskKeeper
from tests.fakes.failpoints import Hold
from tests.fakes.world import World, bounded, container_config, pod_config, turns, until


class Room:
    """An admission, and what has been let in, in order."""

    def __init__(self, places: int, limit: int = 1000) -> None:
        self.admission = Admission(places, limit)
        self.entered: list[str] = []
        self._go: dict[str, asyncio.Event] = {}

    def ask(self, name: str, caller: str = "", pod: str = "", *, new: bool = False) -> asyncio.Task[None]:
        """A verb that asks for a place, as that caller, and stays until it is told to go."""
        self._go[name] = asyncio.Event()
        enter(CallUnderWay("1", "RunPodSandbox", caller))
        return asyncio.ensure_future(self._verb(name, Claim(pod or name, new, contextlib.nullcontext)))

    async def _verb(self, name: str, claim: Claim) -> None:
        async with self.admission.making(claim):
            self.entered.append(name)
            await self._go[name].wait()

    async def go(self, name: str) -> None:
        self._go[name].set()
        await turns()

    async def go_all(self) -> list[str]:
        """Everybody leaves in the order in which they came in; who was let in, from the first."""
        for name in self.entered:  # it grows meanwhile
            await self.go(name)
        return self.entered


async def test_places_are_given_until_there_are_none_and_again_when_one_is_left() -> None:
    room = Room(2)
    tasks = [room.ask(name) for name in "abc"]
    await turns()
    assert room.entered == ["a", "b"]
    assert room.admission.load == module.Load(places=2, making=2, ending=0, overdue=0, queued=1)
    await room.go("b")
    assert room.entered == ["a", "b", "c"]
    await room.go_all()
    async with bounded():
        await asyncio.gather(*tasks)
    assert room.admission.load == module.Load(places=2, making=0, ending=0, overdue=0, queued=0)


async def test_callers_take_turns_however_much_one_of_them_asks_for() -> None:
    room = Room(1)
    for number in range(6):
        room.ask(f"flood{number}", "flood")
    for number in range(2):
        room.ask(f"kubelet{number}", "kubelet")
    await turns()
    entered = await room.go_all()
    assert entered[:5] == ["flood0", "flood1", "kubelet0", "flood2", "kubelet1"]
    assert len(entered) == 8


async def test_pods_take_turns_however_many_containers_one_of_them_has() -> None:
    room = Room(1)
    for number in range(50):
        room.ask(f"big{number}", pod="big")
    room.ask("small0", pod="small")
    room.ask("small1", pod="small")
    room.ask("other", pod="other")
    await turns()
    entered = await room.go_all()
    assert entered[:7] == ["big0", "big1", "small0", "other", "big2", "small1", "big3"]
    assert len(entered) == 53


async def test_pods_that_have_begun_come_before_new_ones_but_not_for_ever() -> None:
    room = Room(1)
    room.ask("first")
    await turns()
    room.ask("new0", new=True)
    room.ask("new1", new=True)
    for number in range(2 * NEW_POD_WAITS):
        room.ask(f"begun{number}")
    await turns()
    entered = await room.go_all()
    begun = [f"begun{number}" for number in range(2 * NEW_POD_WAITS)]
    assert entered == ["first", *begun[:NEW_POD_WAITS], "new0", *begun[NEW_POD_WAITS:], "new1"]


async def test_a_full_queue_refuses_and_says_why() -> None:
    room = Room(1, limit=2)
    for name in "abc":
        room.ask(name)
    await turns()
    with pytest.raises(
        Exhausted, match="2 requests to run, create or start are already waiting for one of 1 places"
    ):
        await room.ask("d")
    assert await room.go_all() == ["a", "b", "c"]


async def test_in_a_full_queue_the_caller_with_the_most_loses_the_last_of_them() -> None:
    room = Room(1, limit=3)
    flood = [room.ask(f"flood{number}", "flood") for number in range(4)]
    await turns()
    room.ask("kubelet", "kubelet")
    await turns()
    with pytest.raises(Exhausted):
        await flood[3]
    assert await room.go_all() == ["flood0", "flood1", "kubelet", "flood2"]


async def test_one_that_is_refused_and_leaves_in_the_same_moment_gives_no_place_back() -> None:
    room = Room(1, limit=2)
    flood = [room.ask(f"flood{number}", "flood") for number in range(3)]
    await turns()
    room.ask("kubelet", "kubelet")
    await until(lambda: room.admission._queue.length("kubelet") == 1)
    flood[2].cancel()  # it has been refused, and has not gone on yet
    await turns()
    assert room.admission.load == module.Load(places=1, making=1, ending=0, overdue=0, queued=2)
    assert await room.go_all() == ["flood0", "flood1", "kubelet"]


async def test_when_the_daemon_stops_who_waits_is_refused_and_what_has_begun_goes_on() -> None:
    room = Room(1)
    tasks = [room.ask(name) for name in "ab"]
    await turns()
    room.admission.close()
    with pytest.raises(Unavailable, match="stopping"):
        await tasks[1]
    with pytest.raises(Unavailable, match="stopping"):
        await room.ask("c")
    await room.go("a")
    async with bounded():
        await tasks[0]
    assert room.entered == ["a"]


async def test_who_leaves_the_queue_holds_nobody_up() -> None:
    room = Room(1)
    tasks = {name: room.ask(name) for name in "abc"}
    await turns()
    tasks["b"].cancel()
    await turns()
    assert room.admission.load.queued == 1
    assert await room.go_all() == ["a", "c"]


async def test_a_place_given_to_who_leaves_in_the_same_moment_goes_to_the_next() -> None:
    room = Room(1)
    tasks = {name: room.ask(name) for name in "abc"}
    await turns()
    room._go["a"].set()
    await until(tasks["a"].done)
    tasks["b"].cancel()  # its turn has come, and it has not gone on yet
    await turns()
    assert room.entered == ["a", "c"]
    await room.go("c")
    assert room.admission.load == module.Load(places=1, making=0, ending=0, overdue=0, queued=0)


async def test_one_that_was_about_to_leave_gets_no_place() -> None:
    room = Room(1)
    tasks = {name: room.ask(name) for name in "abc"}
    await turns()
    tasks["b"].cancel()
    room._go["a"].set()  # in the same round, before b has gone on
    await turns()
    assert room.entered == ["a", "c"]


async def test_what_ends_something_waits_for_no_place_and_the_others_wait_for_it() -> None:
    room = Room(2)
    room.ask("a")
    done = asyncio.Event()
    stops = [asyncio.ensure_future(room.admission.ending(done.wait)) for _ in range(5)]
    await turns()
    room.ask("b")
    await turns()
    assert room.admission.load == module.Load(places=2, making=1, ending=5, overdue=0, queued=1)
    assert room.entered == ["a"]
    done.set()
    async with bounded():
        assert await asyncio.gather(*stops) == [True] * 5
    await turns()
    assert room.entered == ["a", "b"]


async def test_what_ends_something_does_not_stop_the_others_for_good() -> None:
    room = Room(2)
    done = asyncio.Event()
    stops = [asyncio.ensure_future(room.admission.ending(done.wait)) for _ in range(5)]
    await turns()
    tasks = [room.ask(name) for name in "abc"]
    await turns()
    assert await room.go_all() == ["a", "b", "c"]
    done.set()
    async with bounded():
        await asyncio.gather(*stops, *tasks)


async def test_a_verb_that_hangs_gives_its_place_back_and_goes_on(later: Callable[[float], None]) -> None:
    room = Room(1)
    hanging = room.ask("hanging")
    await turns()
    room.ask("next")
    await turns()
    assert room.entered == ["hanging"]
    later(HOLD_LIMIT + 1)
    await turns()
    assert room.entered == ["hanging", "next"]
    assert room.admission.load == module.Load(places=1, making=1, ending=0, overdue=1, queued=0)
    await room.go("hanging")
    async with bounded():
        await hanging
    assert room.admission.load == module.Load(places=1, making=1, ending=0, overdue=0, queued=0)


class Crowded:
    """Joins over an admission whose only place is taken."""

    def __init__(self) -> None:
        self.keeper = TaskKeeper()
        self.room = Room(1)
        self.room.ask("other")
        self.joins: AdmittedJoins[int] = AdmittedJoins(self.keeper, "test", self.room.admission)
        self.begun = 0
        self.go = asyncio.Event()
        self.waits: list[str] = []

    def call(self, key: str = "a") -> asyncio.Task[int]:
        claim = Claim("pod", False, self._wait)
        return asyncio.ensure_future(self.joins.admitted(key, "subject", claim, self._work))

    @contextlib.contextmanager
    def _wait(self) -> Iterator[None]:
        self.waits.append("began")
        try:
            yield
        finally:
            self.waits.append("ended")

    async def _work(self) -> int:
        self.begun += 1
        await self.go.wait()
        return self.begun


async def test_a_retry_shares_the_wait_and_the_place() -> None:
    crowded = Crowded()
    calls = [crowded.call() for _ in range(3)]
    await turns()
    assert crowded.room.admission.load.queued == 1
    assert crowded.waits == ["began"]
    await crowded.room.go("other")
    assert crowded.waits == ["began", "ended"]
    late = crowded.call()
    await turns()
    assert crowded.room.admission.load.making == 1
    crowded.go.set()
    async with bounded():
        assert await asyncio.gather(*calls, late) == [1, 1, 1, 1]
    assert crowded.begun == 1


async def test_no_work_is_done_for_callers_who_all_left_while_it_waited() -> None:
    crowded = Crowded()
    first, second = crowded.call(), crowded.call()
    await turns()
    first.cancel()
    await turns()
    assert crowded.room.admission.load.queued == 1
    second.cancel()
    await turns()
    assert crowded.room.admission.load.queued == 0
    await crowded.room.go("other")
    assert crowded.begun == 0
    assert crowded.joins.running("a") is None


async def test_who_asks_again_after_all_left_waits_anew() -> None:
    crowded = Crowded()
    gone = crowded.call()
    await turns()
    gone.cancel()
    await asyncio.sleep(0)  # the ended work has not gone on yet
    again = crowded.call()
    await turns()
    assert crowded.room.admission.load.queued == 1
    await crowded.room.go("other")
    crowded.go.set()
    async with bounded():
        assert await again == 1


async def test_work_that_has_begun_goes_on_without_callers() -> None:
    crowded = Crowded()
    await crowded.room.go("other")
    call = crowded.call()
    await turns()
    assert crowded.begun == 1
    assert crowded.waits == []
    call.cancel()
    await turns()
    assert crowded.joins.running("a") == "subject"
    crowded.go.set()
    await turns()
    assert crowded.joins.running("a") is None


def test_places_follow_the_cpus_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for cpus in (None, 1, 2, 3, 96):
        monkeypatch.setattr("os.cpu_count", lambda cpus=cpus: cpus)
        found[cpus] = module.usual_places()
    assert found == {None: 4, 1: 4, 2: 8, 3: 12, 96: 16}


@pytest.fixture
async def full() -> AsyncIterator[tuple[World, SandboxId, Hold]]:
    """An engine with one place, which is taken by the run of a pod, and a pod that was there before."""
    world = World(Settings(making_verbs=1))
    await world.start()
    pod = await world.pod("before")
    hold = world.handler.failpoints.hold("prepare_pod")
    running = asyncio.ensure_future(world.pod("held"))
    async with bounded():
        await hold.reached.wait()
        yield world, pod, hold
        hold.release.set()
        await running
    await world.close()


async def test_reads_stops_and_removals_pass_a_full_queue(full: tuple[World, SandboxId, Hold]) -> None:
    world, pod, _ = full
    waiting = [asyncio.ensure_future(world.pod(f"waits{number}")) for number in range(5)]
    await turns()
    status = await world.node.status()
    assert (status.verbs.making, status.verbs.queued) == (1, 5)
    assert [record.id for record in world.node.sandboxes.list()] == [pod]
    await world.node.sandboxes.stop(pod)
    assert world.node.sandboxes.get(pod).state is SandboxState.NOT_READY
    await world.node.sandboxes.remove(pod)
    assert list(world.node.sandboxes.list()) == []
    assert world.handler.failpoints.count("prepare_pod") == 2
    for each in waiting:
        each.cancel()
    await turns()


async def test_a_create_that_waits_holds_up_no_stop_of_its_pod_and_finds_it_stopped(
    full: tuple[World, SandboxId, Hold],
) -> None:
    world, pod, hold = full
    await world.pulled()
    creating = asyncio.ensure_future(world.node.containers.create(pod, container_config()))
    await turns()
    await world.node.sandboxes.stop(pod)
    hold.release.set()
    with pytest.raises(WrongState):
        await creating


async def test_a_stop_passes_the_start_of_its_container_that_waits() -> None:
    world = World(Settings(making_verbs=1))
    await world.start()
    pod = await world.pod()
    container = await world.created(pod)
    hold = world.handler.failpoints.hold("prepare_pod")
    running = asyncio.ensure_future(world.pod("held"))
    async with bounded():
        await hold.reached.wait()
        starting = asyncio.ensure_future(world.node.containers.start(container))
        await turns()
        await world.node.containers.stop(container, 0)
        hold.release.set()
        await running
        with pytest.raises(WrongState):
            await starting
    await world.close()


async def test_a_run_whose_caller_left_in_the_queue_is_never_begun(
    full: tuple[World, SandboxId, Hold],
) -> None:
    world, _, hold = full
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):  # a deadline
            await world.node.sandboxes.run(pod_config("late"), "")
    hold.release.set()
    await turns()
    assert {record.config.metadata.name for record in world.node.sandboxes.list()} == {"before", "held"}
    assert world.handler.failpoints.count("prepare_pod") == 2


async def test_the_wait_is_a_stage_of_the_pods_timeline(full: tuple[World, SandboxId, Hold]) -> None:
    world, pod, hold = full
    waiting = asyncio.ensure_future(world.pod("waits"))
    await turns()
    hold.release.set()
    made = await waiting
    names = [stage.name for stage in world.node.stages(made)]
    assert names[:2] == ["queued", "RunPodSandbox"]
    assert "queued" not in [stage.name for stage in world.node.stages(pod)]
