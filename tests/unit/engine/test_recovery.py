"""After a restart: what is kept, marked, torn down; and that nothing holds up the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from crib.engine.losses import LOST
from crib.engine.recovery.recover import BOUND, GATE_BOUND, PARALLEL, PATIENCE, sweep
from crib.engine.retries import FIRST_PAUSE
from crib.model.container import ContainerRecord, ContainerState, ExecCommand
from crib.model.errors import Broken, CribError
from crib.model.ids import ContainerId, HandlerName, SandboxId
from crib.model.sandbox import NetworkAttachment, SandboxState
from crib.ports.containers import Observation
from tests.fakes.handler import FakeHandler
from tests.fakes.images import digest_of
from tests.fakes.world import IMAGE, World, bounded, pod_config, turns, until


def reset_state(world: World, container: ContainerId, state: ContainerState) -> None:
    """What would be on record had the daemon died earlier."""
    world.records.containers[container] = replace(world.records.containers[container], state=state)


def reset_pod(world: World, pod: SandboxId, state: SandboxState) -> None:
    world.records.sandboxes[pod] = replace(world.records.sandboxes[pod], state=state)


async def test_what_runs_goes_on_and_its_exit_is_seen_after_a_restart(world: World) -> None:
    pod = await world.pod()
    created, running = await world.created(pod, "one"), await world.running(pod, "two")
    before = {key: world.records.containers[key] for key in (created, running)}
    await world.restarted()
    assert {key: world.node.containers.get(key) for key in before} == before
    assert world.node.sandboxes.get(pod).state is SandboxState.READY
    assert world.node.images.status(IMAGE) is not None
    world.handler.host.finish(running, 4)
    await until(lambda: world.node.containers.get(running).exit_code == 4)


async def test_an_exit_while_the_daemon_was_away_is_recorded_with_its_code_and_time(world: World) -> None:
    container = await world.running(await world.pod())
    await world.node.keeper.close(0.0)
    told = world.handler.host.finish(container, 9)
    await world.restarted()
    record = world.node.containers.get(container)
    assert (record.state, record.exit_code, record.finished_at) == ("exited", 9, told.at)


async def test_a_container_that_vanished_is_marked_lost(world: World) -> None:
    container = await world.running(await world.pod())
    world.handler.host.vanish(container)
    await world.restarted()
    record = world.node.containers.get(container)
    assert (record.state, record.exit_code, record.reason) == ("exited", 255, "Unknown")


async def test_a_container_whose_exit_file_is_about_to_come_is_kept_until_then(world: World) -> None:
    container = await world.running(await world.pod())
    world.inside(container).status = "stopped"
    await world.restarted()
    assert world.node.containers.get(container).state is ContainerState.RUNNING
    world.handler.host.finish(container, 5)
    await until(lambda: world.node.containers.get(container).exit_code == 5)


async def test_a_container_whose_monitor_died_is_killed_and_marked_lost(world: World) -> None:
    container = await world.running(await world.pod())
    world.inside(container).monitor_alive = False
    await world.restarted()
    await turns()
    assert world.inside(container).signals == [9]
    record = world.node.containers.get(container)
    assert (record.state, record.exit_code, record.reason) == ("exited", 255, "Unknown")


async def test_a_start_that_was_not_recorded_is_found_to_run(world: World) -> None:
    container = await world.running(await world.pod())
    reset_state(world, container, ContainerState.CREATED)
    began = world.records.containers[container].started_at
    await world.restarted()
    record = world.node.containers.get(container)
    assert (record.state, record.started_at) == (ContainerState.RUNNING, began)


async def test_a_container_that_could_not_be_looked_at_and_is_found_to_run_has_no_problem(
    world: World,
) -> None:
    container = await world.running(await world.pod())
    await world.restarted(start=False)
    world.handler.failpoints.set("observe=1*error(no descriptor left)")
    await world.start()
    assert world.node.containers.get(container).reason == "RecoveryError"
    await world.restarted()
    record = world.node.containers.get(container)
    assert (record.state, record.reason, record.message) == (ContainerState.RUNNING, "", "")


async def test_an_exit_is_never_before_the_start(world: World) -> None:
    """A program may end before its start was recorded; the file of its exit has the earlier time."""
    pod = await world.pod()
    container = await world.created(pod)
    hold = world.handler.failpoints.hold("start_late")
    starting = asyncio.ensure_future(world.node.containers.start(container))
    async with bounded():
        await hold.reached.wait()
        world.handler.host.finish(container, 0)
        world.clock.advance(seconds=5)
        hold.release.set()
        await starting
    await until(lambda: world.node.containers.get(container).state is ContainerState.EXITED)
    record = world.node.containers.get(container)
    assert record.finished_at == record.started_at


@pytest.mark.parametrize("state", [ContainerState.CREATING, ContainerState.REMOVING])
async def test_a_half_made_container_is_torn_down(world: World, state: ContainerState) -> None:
    container = await world.running(await world.pod())
    reset_state(world, container, state)
    await world.restarted()
    assert container not in world.records.containers
    assert container not in world.handler.host.containers


@pytest.mark.parametrize("state", [SandboxState.CREATING, SandboxState.REMOVING])
async def test_a_half_made_sandbox_is_torn_down_with_the_containers_that_run_in_it(
    world: World, state: SandboxState
) -> None:
    pod = await world.pod()
    await world.running(pod)
    reset_pod(world, pod, state)
    await world.restarted()
    assert (world.records.sandboxes, world.records.containers) == ({}, {})
    assert (world.handler.host.pods, world.handler.host.containers, world.networks.held) == ({}, {}, {})


@pytest.mark.parametrize("point", ["prepare_pod", "attach", "start_pod"])
async def test_a_pod_whose_run_the_end_of_the_daemon_cut_off_is_torn_down(world: World, point: str) -> None:
    hold = (world.networks if point == "attach" else world.handler).failpoints.hold(point)
    world.networks.failpoints.hold("detach")
    running = asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
        await world.node.keeper.close(0.0)  # the teardown hangs too: as if killed
    assert [row.state for row in world.records.sandboxes.values()] == [SandboxState.CREATING]
    await world.restarted()
    assert (world.records.sandboxes, world.handler.host.pods, world.networks.held) == ({}, {}, {})
    running.cancel()


async def test_a_stopped_sandbox_whose_remove_was_cut_off_is_removed(world: World) -> None:
    pod = await world.pod()
    await world.node.sandboxes.stop(pod)
    assert world.node.sandboxes.get(pod).released
    reset_pod(world, pod, SandboxState.REMOVING)
    await world.restarted()
    assert (world.records.sandboxes, world.handler.host.pods) == ({}, {})


async def test_a_sandbox_whose_namespaces_are_gone_is_not_ready_and_its_containers_go_on(
    world: World,
) -> None:
    """Those with a pid namespace of their own need no other. A stop then releases it as any pod."""
    pod = await world.pod()
    container = await world.running(pod)
    world.handler.host.pods[pod].alive = False
    for _daemon in range(2):
        await world.restarted()
        record = world.node.sandboxes.get(pod)
        assert (record.state, record.reason, record.released) == ("not-ready", LOST, False)
        assert world.node.containers.get(container).state is ContainerState.RUNNING
    async with bounded():
        await world.node.sandboxes.stop(pod)
    assert world.networks.held == {}
    assert world.node.containers.get(container).state is ContainerState.EXITED
    record = world.node.sandboxes.get(pod)
    assert (record.reason, record.released) == ("", True)


async def test_a_stop_of_a_lost_sandbox_that_was_interrupted_is_finished(world: World) -> None:
    pod = await world.pod()
    await world.running(pod)
    world.handler.host.lose(pod)
    await until(lambda: world.node.sandboxes.get(pod).reason == LOST)
    world.handler.failpoints.set("stop_pod=1*error(busy)")
    with pytest.raises(Broken, match="busy"):
        await world.node.sandboxes.stop(pod)
    await world.restarted()
    assert world.node.sandboxes.get(pod).released


async def test_a_sandbox_that_was_lost_before_a_reboot_is_released(world: World) -> None:
    pod = await world.pod()
    world.handler.host.lose(pod)
    await until(lambda: world.node.sandboxes.get(pod).reason == LOST)
    await world.restarted(boot_id="boot-2")
    assert world.node.sandboxes.get(pod).released
    assert world.networks.held == {}


async def test_a_stop_that_was_interrupted_is_finished(world: World) -> None:
    pod = await world.pod()
    reset_pod(world, pod, SandboxState.NOT_READY)
    await world.restarted()
    record = world.node.sandboxes.get(pod)
    assert (record.reason, record.released) == ("", True)
    assert world.networks.held == {}
    detached = world.networks.failpoints.count("detach")
    await world.restarted()
    assert world.networks.failpoints.count("detach") == detached


async def test_after_a_reboot_all_have_exited_and_networks_are_released(world: World) -> None:
    pods = [await world.pod(name) for name in ("one", "two")]
    running = [await world.running(pod) for pod in pods]
    created = await world.created(pods[0], "waiting")
    await world.restarted(boot_id="boot-2")
    for container in (*running, created):
        record = world.node.containers.get(container)
        assert (record.state, record.exit_code) == (ContainerState.EXITED, 255)
    assert [world.node.sandboxes.get(pod).state for pod in pods] == [SandboxState.NOT_READY] * 2
    assert world.networks.held == {}
    assert world.handler.failpoints.count("observe") == 0
    await world.node.sandboxes.remove(pods[0])


async def test_a_look_whose_own_time_is_over_is_told_in_its_own_words(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def observe(record: object) -> None:
        raise TimeoutError("looking at it takes more than 2 s")

    container = await world.running(await world.pod())
    await world.restarted(start=False)
    monkeypatch.setattr(world.handler.containers, "observe", observe)
    await world.start()
    assert world.node.containers.get(container).message == "looking at it takes more than 2 s"


async def test_one_container_that_hangs_becomes_unknown_and_the_rest_go_on(
    world: World, later: Callable[[float], None]
) -> None:
    pod = await world.pod()
    stuck, other = await world.running(pod, "stuck"), await world.running(pod, "other")
    world.handler.host.finish(other, 3)
    await world.restarted(start=False)
    hold = world.handler.failpoints.hold("observe", subject=stuck)
    starting = asyncio.ensure_future(world.node.start())
    async with bounded():
        await hold.reached.wait()
    await turns()
    later(2 * BOUND)
    async with bounded():
        await starting
    record = world.node.containers.get(stuck)
    assert (record.state, record.reason) == (ContainerState.UNKNOWN, "RecoveryError")
    assert "took more than" in record.message
    assert world.node.containers.get(other).exit_code == 3
    world.handler.host.finish(stuck, 6)
    await until(lambda: world.node.containers.get(stuck).exit_code == 6)


async def test_a_container_whose_look_no_cancellation_ends_is_unknown_at_the_bound_too(
    world: World, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a thread that hangs for longer than that: its caller waits for it up to its own limit."""
    container = await world.running(await world.pod())
    await world.restarted(start=False)
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def unstoppable(record: ContainerRecord) -> Observation:
        reached.set()
        while not goes_on.is_set():
            with suppress(asyncio.CancelledError):
                await goes_on.wait()
        raise asyncio.CancelledError

    monkeypatch.setattr(world.handler.containers, "observe", unstoppable)
    starting = asyncio.ensure_future(world.node.start())
    try:
        async with bounded():
            await reached.wait()
        await turns()
        later(2 * BOUND)
        async with bounded():
            await starting
            await world.node.settled()
        record = world.node.containers.get(container)
    finally:
        goes_on.set()
    assert (record.state, record.reason) == (ContainerState.UNKNOWN, "RecoveryError")
    assert f"took more than {BOUND:.0f} s" in record.message


async def test_twenty_containers_that_hang_delay_neither_the_start_nor_what_is_seen_of_others(
    world: World, later: Callable[[float], None]
) -> None:
    pod = await world.pod()
    stuck = [await world.running(pod, f"stuck{number}") for number in range(20)]
    other = await world.pod("other")
    ended = await world.running(other, "ended")
    await world.node.keeper.close(0.0)
    world.handler.host.finish(ended, 3)
    await world.restarted(start=False)
    holds = [world.handler.failpoints.hold("observe", subject=container) for container in stuck]
    starting = asyncio.ensure_future(world.node.start())
    async with bounded():
        for hold in holds[:PARALLEL]:
            await hold.reached.wait()
    later(PATIENCE)  # the others have their turn
    async with bounded():
        for hold in holds[PARALLEL:]:
            await hold.reached.wait()
    await until(lambda: world.node.containers.get(ended).exit_code == 3)
    assert not starting.done()
    later(GATE_BOUND)
    async with bounded():
        await starting
    assert {world.node.containers.get(key).state for key in stuck} == {ContainerState.RUNNING}
    again = await world.running(other, "again")
    assert world.node.containers.get(again).state is ContainerState.RUNNING
    for hold in holds:
        hold.release.set()
    async with bounded():
        await world.node.settled()
    assert {world.node.containers.get(key).state for key in stuck} == {ContainerState.RUNNING}


async def test_who_stops_a_pod_that_is_being_recovered_waits_and_then_finds_it_whole(world: World) -> None:
    pod, other = await world.pod(), await world.pod("other")
    await world.restarted(start=False)
    hold = world.networks.failpoints.hold("resume", subject=pod)
    async with bounded():
        await world.node.start()
        await hold.reached.wait()
        assert world.node.sandboxes.get(pod).state is SandboxState.READY
        stopping = asyncio.ensure_future(world.node.sandboxes.stop(pod))
        await world.node.sandboxes.stop(other)
        await turns()
        assert not stopping.done()
        assert world.networks.failpoints.calls.count(("detach", pod)) == 0
        hold.release.set()
        await stopping
    assert world.node.sandboxes.get(pod).released


async def test_what_a_caller_did_meanwhile_outlives_a_late_answer_about_a_container(
    world: World, later: Callable[[float], None]
) -> None:
    container = await world.created(await world.pod())
    await world.restarted(start=False)
    hold = world.handler.failpoints.hold("observe", subject=container)
    starting = asyncio.ensure_future(world.node.start())
    async with bounded():
        await hold.reached.wait()
    later(GATE_BOUND)
    async with bounded():
        await starting
        await world.node.containers.start(container)
    started = world.node.containers.get(container)
    world.clock.advance(seconds=5)
    hold.release.set()
    async with bounded():
        await world.node.settled()
    assert world.node.containers.get(container) == started


async def test_what_is_made_behind_the_gate_is_not_swept(world: World) -> None:
    """The sweep asks what is known when it has looked, as a record comes before its work."""
    await world.restarted(start=False)
    hold = world.handler.failpoints.hold("sweep")
    async with bounded():
        await world.node.start()
        await hold.reached.wait()
        container = await world.running(await world.pod())
        hold.release.set()
        await world.node.settled()
    assert world.handler.swept == []
    assert world.node.containers.get(container).state is ContainerState.RUNNING
    assert container in world.handler.host.containers


async def test_one_container_that_cannot_be_observed_becomes_unknown_and_can_be_removed(world: World) -> None:
    pod = await world.pod()
    stuck, other = await world.running(pod, "stuck"), await world.running(pod, "other")
    await world.restarted(start=False)
    world.handler.failpoints.set("observe=1*error(runtime says nonsense)", subject=stuck)
    await world.start()
    record = world.node.containers.get(stuck)
    assert (record.state, record.message) == (ContainerState.UNKNOWN, "runtime says nonsense")
    assert world.node.containers.get(other).state is ContainerState.RUNNING
    async with bounded():
        await world.node.containers.remove(stuck)
    assert stuck not in world.records.containers


@pytest.mark.parametrize("kind", ["error", "bug"])
async def test_a_teardown_that_fails_in_recovery_is_shown_so_that_it_can_be_removed(
    world: World, kind: str
) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    reset_state(world, container, ContainerState.REMOVING)
    reset_pod(world, pod, SandboxState.REMOVING)
    await world.restarted(start=False)
    world.handler.failpoints.set(f"delete={kind}(busy)")
    await world.start()
    assert world.node.containers.get(container).state is ContainerState.UNKNOWN
    record = world.node.sandboxes.get(pod)
    assert record.state is SandboxState.NOT_READY
    assert "busy" in record.reason
    world.handler.failpoints.clear()
    async with bounded():
        await world.node.sandboxes.remove(pod)
    assert (world.records.sandboxes, world.records.containers) == ({}, {})


async def test_a_sandbox_whose_teardown_hangs_is_shown_not_ready_and_the_rest_go_on(
    world: World, later: Callable[[float], None]
) -> None:
    stuck, gone, halted = await world.pod("stuck"), await world.pod("gone"), await world.pod("halted")
    reset_pod(world, stuck, SandboxState.REMOVING)
    reset_pod(world, gone, SandboxState.REMOVING)
    reset_pod(world, halted, SandboxState.NOT_READY)
    await world.restarted(start=False)
    holds = [
        world.handler.failpoints.hold("remove_pod", subject=stuck),
        world.networks.failpoints.hold("detach", subject=halted),
    ]
    starting = asyncio.ensure_future(world.node.start())
    async with bounded():
        for hold in holds:
            await hold.reached.wait()
    await until(lambda: gone not in world.records.sandboxes)
    later(2 * BOUND)
    async with bounded():
        await starting
    assert gone not in world.records.sandboxes
    record = world.node.sandboxes.get(stuck)
    assert (record.state, "took more than" in record.reason) == (SandboxState.NOT_READY, True)
    assert world.node.sandboxes.get(halted).state is SandboxState.NOT_READY
    async with bounded():
        await world.node.sandboxes.remove(stuck)
        await world.node.sandboxes.stop(halted)
    assert set(world.records.sandboxes) == {halted}


async def test_a_container_without_its_sandbox_is_torn_down(world: World) -> None:
    pod = await world.pod()
    await world.running(pod)
    del world.records.sandboxes[pod]
    await world.restarted()
    assert world.records.containers == {}
    assert world.handler.host.containers == {}


async def test_what_belongs_to_no_record_is_swept(world: World) -> None:
    pod = await world.pod()
    container = await world.running(pod)
    kept = await world.pod("kept")
    del world.records.sandboxes[pod]
    del world.records.containers[container]
    world.images.layers.add(digest_of("stray"))
    await world.restarted()
    assert world.handler.swept == [f"container {container}", f"sandbox {pod}"]
    assert set(world.networks.held) == {kept}
    assert world.images.layers == {digest_of("base")}


@pytest.mark.parametrize("point", ["handler", "networks", "images"])
async def test_a_sweep_that_fails_does_not_stop_the_start(world: World, point: str) -> None:
    pod = await world.pod()
    await world.restarted(start=False)
    getattr(world, point).failpoints.set("sweep=1*error(busy)")
    await world.start()
    assert world.node.sandboxes.get(pod).state is SandboxState.READY


async def test_a_name_that_recovery_could_not_clear_can_be_run_again(world: World) -> None:
    pod = await world.pod()
    reset_pod(world, pod, SandboxState.CREATING)
    await world.restarted(start=False)
    world.handler.failpoints.set("remove_pod=1*error(busy)")
    await world.start()
    again = await world.pod()
    assert set(world.records.sandboxes) == {again}


async def test_a_pod_of_a_handler_that_is_no_longer_configured_does_not_stop_the_start(world: World) -> None:
    pod, other = await world.pod(), await world.pod("other")
    container = await world.running(pod)
    row = world.records.sandboxes[pod]
    world.records.sandboxes[pod] = replace(row, handler="kata")  # type: ignore[arg-type]  # a name
    await world.restarted()
    assert world.node.containers.get(container).state is ContainerState.RUNNING
    assert world.node.sandboxes.get(other).state is SandboxState.READY
    with pytest.raises(CribError, match="kata"):
        await world.created(pod, "late")
    assert (await world.node.containers.exec_sync(container, ExecCommand(("true",)))).exit_code == 0
    await world.node.sandboxes.stop(pod)
    assert world.node.containers.get(container).state is ContainerState.EXITED
    await world.node.sandboxes.remove(pod)
    assert set(world.records.sandboxes) == {other}


async def test_the_exits_on_file_of_containers_that_have_exited_change_nothing(world: World) -> None:
    container = await world.running(await world.pod(), "app", "sh", "-c", "exit 3")
    await until(lambda: world.node.containers.get(container).state is ContainerState.EXITED)
    before = world.node.containers.get(container)
    await world.restarted()
    await turns()
    assert world.node.containers.get(container) == before


async def test_a_verb_that_the_end_of_the_daemon_cut_off_is_cleared_by_the_next(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create_late")
    world.handler.failpoints.hold("delete")
    creating = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
        await world.node.keeper.close(0.0)  # the teardown hangs too: as if killed
    await world.restarted()
    assert (world.records.containers, world.handler.host.containers) == ({}, {})
    creating.cancel()


async def test_the_network_of_a_pod_that_lives_is_resumed_before_the_first_verb(world: World) -> None:
    pod, stopped, dead = await world.pod(), await world.pod("stopped"), await world.pod("dead")
    await world.node.sandboxes.run(pod_config("host", host_network=True), "")
    await world.node.sandboxes.stop(stopped)
    world.handler.host.pods[dead].alive = False
    await world.restarted()
    calls = world.networks.failpoints.calls
    assert [subject for name, subject in calls if name == "resume"] == [pod]


async def test_a_network_that_is_new_after_a_restart_is_put_on_record(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    pod, other = await world.pod(), await world.pod("other")
    before = world.node.sandboxes.get(other).network
    new = NetworkAttachment(addresses=("10.1.0.200",), interface="eth0")
    world.networks.resumed[pod] = new
    await world.restarted()
    assert (world.records.sandboxes[pod].network, world.records.sandboxes[other].network) == (new, before)
    assert world.node.sandboxes.get(pod).state is SandboxState.READY
    assert f"pod {pod}: its network was made anew" in caplog.text


async def test_a_network_that_cannot_be_resumed_is_told_and_the_pod_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await world.pod()
    await world.restarted(start=False)
    world.networks.failpoints.set("resume=1*unavailable(host port taken)")
    await world.start()
    assert world.node.sandboxes.get(pod).state is SandboxState.READY
    assert f"recovering the network of pod sandbox {pod}: host port taken" in caplog.text


async def test_networks_are_swept_though_a_handler_cannot_remove_what_is_stray(world: World) -> None:
    pod = await world.pod()
    del world.records.sandboxes[pod]
    await world.restarted(start=False)
    world.handler.failpoints.set("sweep=1*error(busy)")
    await world.start()
    assert world.networks.held == {}


async def test_a_handler_that_cannot_sweep_keeps_no_other_from_it(world: World) -> None:
    pod = await world.pod()
    core, broken = world.node._core, FakeHandler(world.clock)
    broken.failpoints.set("sweep=error(busy)")
    core.ports = replace(core.ports, handlers={HandlerName("broken"): broken, **core.ports.handlers})
    record = core.sandboxes.get(pod)
    assert record is not None
    core.sandboxes.remove(record)
    with pytest.raises(Broken, match="busy"):
        await sweep(core)
    assert world.handler.host.pods == {}


async def test_a_sweep_of_networks_that_hangs_does_not_hold_up_the_start_and_goes_on(
    world: World,
) -> None:
    pod = await world.pod()
    del world.records.sandboxes[pod]
    await world.restarted(start=False)
    hold = world.networks.failpoints.hold("sweep")
    async with bounded():
        await world.node.start()
    other = await world.pod("other")
    assert set(world.networks.held) == {pod, other}
    hold.release.set()
    await until(lambda: set(world.networks.held) == {other})


async def test_what_goes_wrong_in_a_sweep_of_networks_is_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.restarted(start=False)
    world.networks.failpoints.set("sweep=1*bug(oops)")
    await world.start()
    assert "what networks hold for no pod stays: oops" in caplog.text


async def test_what_networks_hold_is_looked_for_again_where_pods_came_before(
    world: World, later: Callable[[float], None]
) -> None:
    pod = await world.pod()
    del world.records.sandboxes[pod]
    await world.restarted(start=False)
    world.networks.failpoints.set("sweep=2*unavailable(pods are waiting)")
    before = world.networks.failpoints.count("sweep")
    await world.start()
    assert set(world.networks.held) == {pod}
    for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE):
        later(pause)
        await turns(60)
    assert world.networks.held == {}
    assert world.networks.failpoints.count("sweep") - before == 3
