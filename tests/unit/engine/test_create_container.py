"""CreateContainer and StartContainer."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

import pytest

from crib.model.container import ContainerConfig, ContainerSecurity, ContainerState
from crib.model.errors import AlreadyExists, Broken, InvalidRequest, NotFound, WrongState
from crib.model.events import EventType
from crib.model.image import ImageConfig
from crib.model.sandbox import NamespaceMode, NamespaceOptions, SandboxState
from tests.fakes.containers import STOP_OF_SYSTEMD
from tests.fakes.images import made_image
from tests.fakes.world import IMAGE, World, bounded, container_config, next_events, pod_config, turns

TARGET_ID = "linux.security_context.namespace_options.target_id"


async def test_a_create_records_its_intent_with_the_layers_it_holds_then_the_result(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    creating = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
    (row,) = world.records.containers.values()
    assert row.state is ContainerState.CREATING
    assert row.layers == (made_image("busybox", "base").layers[0].diff_id,)
    assert list(world.node.containers.list()) == []
    assert list(world.node.containers.of_sandbox(pod)) == []
    hold.release.set()
    container = await creating
    record = world.node.containers.get(container[:10])
    assert record.state is ContainerState.CREATED
    assert record.process == world.inside(container).process
    assert record.image_ref.startswith("docker.io/library/busybox@sha256:")
    assert [row.id for row in world.node.containers.list()] == [container]


async def test_a_stop_signal_that_the_handler_finds_is_the_containers(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    init, shell = await world.created(pod, "init", "/sbin/init"), await world.created(pod, "sh", "sh")
    assert world.node.containers.get(init).stop_signal == STOP_OF_SYSTEMD
    assert world.node.containers.get(shell).stop_signal == signal.SIGTERM


async def test_create_start_and_exit_tell_their_events_in_order(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    subscription = world.node.events.subscribe()
    container = await world.running(pod, "app", "sh", "-c", "exit 3")
    events = await next_events(subscription, 3)
    assert [event.type for event in events] == [EventType.CREATED, EventType.STARTED, EventType.STOPPED]
    assert {event.container_id for event in events} == {container}
    assert [event.containers[0].state for event in events] == ["created", "running", "exited"]
    assert [event.at for event in events] == sorted(event.at for event in events)


async def test_a_failed_create_leaves_no_row_and_no_world(world: World) -> None:
    pod = await world.pod()
    world.handler.failpoints.set("create_late=1*error(no user app in image)")
    with pytest.raises(Broken, match="no user app"):
        await world.created(pod)
    assert world.records.containers == {}
    assert world.handler.host.containers == {}
    await world.created(pod)


async def test_a_pod_found_dead_by_a_create_is_not_ready_so_that_the_kubelet_makes_a_new_one(
    world: World,
) -> None:
    pod = await world.pod()
    await world.pulled()
    world.handler.host.pods[pod].alive = False
    subscription = world.node.events.subscribe()
    with pytest.raises(WrongState, match="cannot create container"):
        await world.created(pod)
    record = world.node.sandboxes.get(pod)
    assert (record.state, record.reason) == (
        SandboxState.NOT_READY,
        "its namespaces, its /dev/shm or its infra process are gone",
    )
    (event,) = await next_events(subscription, 1)
    assert (event.type, event.container_id) == (EventType.STOPPED, pod)
    assert world.records.containers == {}
    with pytest.raises(WrongState, match="cannot create container"):
        await world.created(pod)


async def test_a_pod_that_dies_while_a_create_is_under_way_is_not_ready(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    creation = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
        world.handler.host.pods[pod].alive = False
        hold.release.set()
        with pytest.raises(Broken, match="no namespaces"):
            await creation
    assert world.node.sandboxes.get(pod).state is SandboxState.NOT_READY


async def test_a_create_that_fails_in_a_pod_that_lives_leaves_the_pod_ready(world: World) -> None:
    pod = await world.pod()
    world.handler.failpoints.set("create_late=1*error(no user app in image)")
    with pytest.raises(Broken, match="no user app"):
        await world.created(pod)
    assert world.node.sandboxes.get(pod).state is SandboxState.READY


async def test_a_failed_create_whose_teardown_fails_is_kept_unknown_and_the_retry_starts_anew(
    world: World,
) -> None:
    pod = await world.pod()
    world.handler.failpoints.set("create_late=1*error(no user app in image)")
    world.handler.failpoints.set("delete=1*error(mount busy)")
    with pytest.raises(Broken, match="no user app"):
        await world.created(pod)
    (row,) = world.node.containers.list()
    assert (row.state, row.reason, row.message) == (ContainerState.UNKNOWN, "RemoveError", "mount busy")
    container = await world.created(pod)
    assert set(world.records.containers) == set(world.handler.host.containers) == {container}


async def test_two_equal_creates_at_once_are_one_container(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    both = [asyncio.ensure_future(world.created(pod)) for _ in range(2)]
    async with bounded():
        await hold.reached.wait()
        hold.release.set()
        first, second = await asyncio.gather(*both)
    assert first == second
    assert world.handler.failpoints.count("create") == 1


async def test_a_create_after_success_gets_the_same_id_unless_the_config_differs(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    assert await world.created(pod) == container
    with pytest.raises(AlreadyExists, match="different args"):
        await world.created(pod, "app", "sleep", "61")
    assert await world.created(pod, "other", "sleep", "61") != container


async def test_a_different_config_is_refused_while_the_first_create_is_under_way(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    first = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
        with pytest.raises(AlreadyExists, match="args"):
            await world.created(pod, "app", "true")
        hold.release.set()
        await first


async def test_a_cancelled_caller_does_not_cancel_the_create(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    first = asyncio.ensure_future(world.created(pod))
    async with bounded():
        await hold.reached.wait()
        first.cancel()
        await turns()
        second = asyncio.ensure_future(world.created(pod))
        await turns()
        hold.release.set()
        container = await second
    assert first.cancelled()
    assert world.handler.failpoints.count("create") == 1
    assert set(world.records.containers) == {container}


async def test_a_create_without_its_image_or_its_sandbox_is_refused(world: World) -> None:
    pod = await world.pod()
    with pytest.raises(NotFound, match="pull it first"):
        await world.node.containers.create(pod, container_config(image="nowhere:1"))
    with pytest.raises(NotFound, match="pod sandbox"):
        await world.node.containers.create("f" * 64, container_config())
    assert world.records.containers == {}


async def test_a_privileged_container_in_a_pod_that_is_not_is_refused_naming_the_field(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    config = replace(container_config(), security=ContainerSecurity(privileged=True))
    with pytest.raises(InvalidRequest, match=r"security_context\.privileged"):
        await world.node.containers.create(pod, config)
    assert world.records.containers == {}


def _looking_into(target: str) -> ContainerConfig:
    options = NamespaceOptions(pid=NamespaceMode.TARGET, target_id=target)
    return replace(container_config("debug"), security=ContainerSecurity(namespaces=options))


async def test_a_container_may_see_the_processes_of_a_running_one_of_its_own_pod_only(world: World) -> None:
    pod, other = await world.pod(), await world.pod("other")
    target, foreign = await world.running(pod), await world.running(other)
    create = world.node.containers.create
    async with bounded():
        with pytest.raises(InvalidRequest, match=f"container {foreign} is of pod sandbox {other}") as caught:
            await create(pod, _looking_into(foreign))
        assert caught.value.field == TARGET_ID
        with pytest.raises(NotFound, match=rf"{TARGET_ID}: there is no container 'ffff'"):
            await create(pod, _looking_into("ffff"))
        assert set(world.records.containers) == {target, foreign}
        debug = await create(pod, _looking_into(target))
        assert world.node.containers.get(debug).config.security.namespaces.target_id == target


@pytest.mark.parametrize("state", ["created", "exited"])
async def test_a_container_that_does_not_run_has_no_processes_to_see(world: World, state: str) -> None:
    pod = await world.pod()
    target = await (world.created if state == "created" else world.running)(pod)
    async with bounded():
        if state == "exited":
            await world.node.containers.stop(target, 0)
        with pytest.raises(
            WrongState, match=f"{TARGET_ID}: container {target} is not running: it is {state}"
        ):
            await world.node.containers.create(pod, _looking_into(target))


async def test_a_log_path_is_placed_in_the_pods_log_directory(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    async with bounded():
        container = await world.node.containers.create(pod, container_config(log_path="app/0.log"))
    assert world.node.containers.get(container).log_path == "/var/log/pods/web/app/0.log"


async def test_a_log_path_without_a_log_directory_is_refused_naming_the_field(world: World) -> None:
    await world.pulled()
    async with bounded():
        pod = await world.node.sandboxes.run(replace(pod_config(), log_directory=""), "")
        with pytest.raises(InvalidRequest, match=r"log_path"):
            await world.node.containers.create(pod, container_config(log_path="app/0.log"))
    assert world.records.containers == {}


async def test_the_stop_signal_is_the_containers_then_the_images_then_sigterm(world: World) -> None:
    pod = await world.pod()
    world.images.publish("withsignal", made_image("s", "base", config=ImageConfig(stop_signal="SIGQUIT")))
    await world.pulled()
    await world.pulled("withsignal")
    async with bounded():
        create = world.node.containers.create
        ids = [
            await create(pod, container_config("one")),
            await create(pod, container_config("two", image="withsignal")),
            await create(pod, container_config("three", image="withsignal", stop_signal=8)),
        ]
    assert [world.node.containers.get(key).stop_signal for key in ids] == [15, 3, 1]


async def test_a_started_container_runs(world: World) -> None:
    container = await world.running(await world.pod())
    record = world.node.containers.get(container)
    assert record.state is ContainerState.RUNNING
    assert record.started_at > record.created_at
    await world.node.containers.start(container)
    assert world.node.containers.get(container) == record, "a retry after success changes nothing"


async def test_a_container_that_has_ended_is_not_started_again(world: World) -> None:
    container = await world.running(await world.pod())
    await world.node.containers.stop(container, 0)
    with pytest.raises(WrongState, match="cannot start container"):
        await world.node.containers.start(container)


async def test_two_starts_at_once_are_one(world: World) -> None:
    container = await world.created(await world.pod())
    hold = world.handler.failpoints.hold("start")
    both = [asyncio.ensure_future(world.node.containers.start(container)) for _ in range(2)]
    async with bounded():
        await hold.reached.wait()
        hold.release.set()
        await asyncio.gather(*both)
    assert world.handler.failpoints.count("start") == 1


async def test_a_failed_start_is_exited_128_start_error_with_the_runtimes_words(world: World) -> None:
    container = await world.created(await world.pod(), "app", "/no/such")
    subscription = world.node.events.subscribe()
    with pytest.raises(Broken, match="no such file"):
        await world.node.containers.start(container)
    [stopped] = await next_events(subscription, 1)
    assert (stopped.type, stopped.container_id) == (EventType.STOPPED, container)
    record = world.node.containers.get(container)
    assert (record.state, record.exit_code, record.reason) == (ContainerState.EXITED, 128, "StartError")
    assert "no such file or directory" in record.message
    assert record.finished_at
    assert record.started_at == 0


async def test_an_exit_before_the_starts_return_is_recorded_after_running(world: World) -> None:
    container = await world.created(await world.pod(), "app", "sh", "-c", "exit 7")
    hold = world.handler.failpoints.hold("start_late")
    starting = asyncio.ensure_future(world.node.containers.start(container))
    async with bounded():
        await hold.reached.wait()
    assert world.inside(container).status == "stopped"
    await turns()
    assert world.node.containers.get(container).state is ContainerState.CREATED
    subscription = world.node.events.subscribe()
    hold.release.set()
    await starting
    started, stopped = await next_events(subscription, 2)
    assert (started.type, stopped.type) == (EventType.STARTED, EventType.STOPPED)
    states = [state for key, state in world.records.written if key == container]
    assert states == ["creating", "created", "running", "exited"]
    record = world.node.containers.get(container)
    assert record.exit_code == 7
    assert record.started_at > 0


async def test_a_start_that_hangs_does_not_hold_up_the_exit_of_another_container(world: World) -> None:
    pod = await world.pod()
    slow, other = await world.created(pod, "slow"), await world.running(pod, "other")
    hold = world.handler.failpoints.hold("start_late")
    starting = asyncio.ensure_future(world.node.containers.start(slow))
    async with bounded():
        await hold.reached.wait()
        world.handler.host.finish(slow, 0)
        world.handler.host.finish(other, 0)
        await turns()
        assert world.node.containers.get(other).state is ContainerState.EXITED
        hold.release.set()
        await starting


async def test_image_ids_and_names_lead_to_the_same_container_image(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    image = world.node.images.status(IMAGE)
    assert image is not None
    async with bounded():
        container = await world.node.containers.create(pod, container_config(image=image.id))
    assert world.node.containers.get(container).image_ref == image.digests[0]


async def test_an_image_without_layers_is_refused_before_anything_is_made(world: World) -> None:
    world.images.publish("empty:1", made_image("empty"))
    await world.pull("empty:1")
    pod = await world.pod()
    with pytest.raises(InvalidRequest, match="no layers"):
        await world.node.containers.create(pod, container_config("app", image="empty:1"))
    assert list(world.node.containers.list()) == []
