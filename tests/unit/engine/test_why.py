"""Why containers have ended: who asked, what else ended them, and for how long it is remembered."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from crib.engine import endings
from crib.engine.containers.exits import record_exit
from crib.engine.endings import WantedEnd
from crib.model.container import Exit
from crib.model.ends import ContainerEnd, EndCause, OomKill, OomLevel
from crib.model.errors import Broken, NotFound
from crib.model.ids import ContainerId
from crib.tasks.calls import CallUnderWay, enter
from tests.fakes.world import World, bounded, pod_config, turns

DAY = 24 * 3600


def ends(world: World, target: str, name: str = "") -> list[ContainerEnd]:
    return [told.end for told in world.node.why(WantedEnd(target, name)) if told.end is not None]


def the_end(world: World, container: ContainerId) -> ContainerEnd:
    (found,) = ends(world, container)
    return found


async def finished(world: World, container: ContainerId, exit_: Exit) -> ContainerEnd:
    await record_exit(world.node._core, exit_)
    return the_end(world, container)


async def test_a_stop_is_told_with_its_caller_and_grace(world: World) -> None:
    container = await world.running(await world.pod())
    enter(CallUnderWay("1f", "StopContainer", "kubelet/1.36"))
    await world.node.containers.stop(container, 30)
    end = the_end(world, container)
    assert (end.pod, end.name, end.cause) == ("default/web", "app", EndCause.STOPPED)
    assert end.stop is not None
    assert (end.stop.verb, end.stop.caller.agent, end.stop.caller.request) == (
        "StopContainer",
        "kubelet/1.36",
        "1f",
    )
    assert (end.stop.grace, end.stop.signal, end.stop.killed) == (30, signal.SIGTERM, False)


async def test_the_removal_of_a_pod_tells_who_ended_its_containers_and_who_removed_them(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    enter(CallUnderWay("2", "StopPodSandbox", "kubelet/1.36"))
    await world.node.sandboxes.stop(pod)
    enter(CallUnderWay("3", "RemovePodSandbox", "crictl"))
    await world.node.sandboxes.remove(pod)
    (told,) = world.node.why(WantedEnd("default/web"))
    assert (told.record, told.pod) == (None, "default/web")
    end = the_end(world, container)
    assert end.stop is not None
    assert end.removed_by is not None
    assert (end.stop.verb, end.stop.killed, end.removed_by.verb) == (
        "StopPodSandbox",
        True,
        "RemovePodSandbox",
    )
    assert end.removed_at > 0


@pytest.mark.parametrize(
    ("exit_", "cause", "number"),
    [
        (Exit(ContainerId(""), 0, 1), EndCause.EXITED, 0),
        (Exit(ContainerId(""), 128, 1), EndCause.EXITED, 0),
        (Exit(ContainerId(""), 139, 1), EndCause.SIGNAL, 11),
        (Exit(ContainerId(""), 255, 1, lost=True), EndCause.MONITOR_LOST, 0),
        (Exit(ContainerId(""), 1, 1, never_ran="no such file"), EndCause.START_FAILED, 0),
        (Exit(ContainerId(""), 0, 1, oom_killed=True), EndCause.OOM, 0),
    ],
)
async def test_an_end_that_nobody_asked_for_has_its_cause(
    world: World, exit_: Exit, cause: EndCause, number: int
) -> None:
    container = await world.running(await world.pod())
    told = replace(exit_, id=container, at=99)
    end = await finished(world, container, told)
    assert (end.cause, end.signal, end.stop) == (cause, number, None)


async def test_want_of_memory_counts_more_than_a_stop_and_has_its_details(world: World) -> None:
    container = await world.running(await world.pod())
    kill = OomKill(OomLevel.POD, "/pods/p", 5, 7, "sh", 9, is_logged=True)
    world.node._core.ends.ordered(world.node.containers.get(container), 5)
    end = await finished(world, container, Exit(container, 137, 99, oom_killed=True, oom=kill))
    assert (end.cause, end.oom, end.stop is not None) == (EndCause.OOM, kill, True)


async def test_a_start_that_failed_is_told_with_the_reason(world: World) -> None:
    container = await world.created(await world.pod())
    world.handler.failpoints.set("start=1*error(no such program)")
    with pytest.raises(Broken):
        await world.node.containers.start(container)
    end = the_end(world, container)
    assert (end.cause, end.reason, end.started_at) == (EndCause.START_FAILED, "StartError", 0)
    assert "no such program" in end.message


async def test_what_ended_with_the_machine_is_told_so(world: World) -> None:
    container = await world.running(await world.pod())
    await world.restarted(boot_id="boot-2")
    assert the_end(world, container).cause is EndCause.REBOOT


async def test_it_is_remembered_over_a_restart_of_the_daemon(world: World) -> None:
    container = await world.running(await world.pod())
    enter(CallUnderWay("9", "StopContainer", "crictl"))
    await world.node.containers.stop(container, 0)
    before = the_end(world, container)
    await world.restarted()
    assert the_end(world, container) == before


async def test_after_a_day_without_a_record_it_is_forgotten(world: World) -> None:
    kept, removed = [await world.running(await world.pod(name)) for name in ("kept", "removed")]
    for container in (kept, removed):
        await world.node.containers.stop(container, 0)
    await world.node.containers.remove(removed)
    world.clock.advance(DAY - 60)
    assert [end.id for end in ends(world, "removed")] == [removed]
    world.clock.advance(120)
    assert [end.id for end in ends(world, "kept")] == [kept]
    with pytest.raises(NotFound, match="in the last day"):
        ends(world, "removed")


async def test_the_old_and_the_many_are_dropped_from_the_journal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "FORGET_EACH", 0)
    monkeypatch.setattr(endings, "MOST_KEPT", 2)
    old = await world.running(await world.pod("old"))
    await world.node.containers.stop(old, 0)
    await world.node.containers.remove(old)
    world.clock.advance(DAY + 1)
    shelf = world.node._core.ends._shelf
    for number in range(4):
        container = await world.running(await world.pod(f"pod{number}"))
        await world.node.containers.stop(container, 0)
        world.clock.advance(1)
    await turns()
    assert [label.title for label in shelf.labels()] == ["default/pod3/app", "default/pod2/app"]


async def test_a_container_is_found_by_its_pod_its_name_or_its_id(world: World) -> None:
    pod = await world.pod()
    app, other = await world.running(pod), await world.running(pod, "other")
    async with bounded():
        await world.node.containers.stop(app, 0)
    told = world.node.why(WantedEnd("web"))
    assert [(one.record and one.record.id, one.end is None) for one in told] == [(other, True), (app, False)]
    assert [end.id for end in ends(world, "default/web", "app")] == [app]
    assert [end.id for end in ends(world, app[:10])] == [app]
    for target, name in (("web", "nobody"), ("default", ""), (app[:3], "")):
        with pytest.raises(NotFound):
            world.node.why(WantedEnd(target, name))


async def test_the_latest_attempt_comes_first(world: World) -> None:
    found = []
    for attempt in range(3):
        async with bounded():
            pod = await world.node.sandboxes.run(pod_config("web", attempt=attempt), "")
        container = await world.running(pod)
        world.clock.advance(1)
        await world.node.containers.stop(container, 0)
        await world.node.sandboxes.stop(pod)
        found.append(container)
    assert [end.id for end in ends(world, "web")] == found[::-1]
