"""RunPodSandbox: five beats, and what is left when one of them fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crib.model.errors import AlreadyExists, Broken, InvalidRequest, NotFound, Unavailable
from crib.model.events import EventType
from crib.model.ids import SandboxId
from crib.model.sandbox import IdMapping, NamespaceMode, SandboxConfig, SandboxState, UserNamespace
from crib.model.settings import HandlerSettings, Settings
from tests.fakes.world import World, bounded, next_events, pod_config, turns


async def test_a_run_records_its_intent_acts_and_records_the_result(world: World) -> None:
    pod = await world.pod()
    assert world.records.written == [(pod, "creating"), (pod, "ready")]
    assert world.handler.failpoints.calls[-2:] == [("prepare_pod", pod), ("start_pod", pod)]
    record = world.node.sandboxes.get(pod)
    assert record.state is SandboxState.READY
    assert record.network is not None
    assert record.network.addresses == (world.networks.held[pod],)
    assert world.records.sandboxes[pod] == record


async def test_the_intent_is_recorded_before_anything_is_made(world: World) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    running = asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
    (row,) = world.records.sandboxes.values()
    assert row.state is SandboxState.CREATING
    assert world.networks.failpoints.count("attach") == 0
    assert list(world.node.sandboxes.list()) == []
    with pytest.raises(NotFound):
        world.node.sandboxes.get(row.id)
    hold.release.set()
    assert await running == row.id


def shifted(name: str, uid: int, gid: int, *, attempt: int = 0) -> SandboxConfig:
    """A pod whose user namespace begins at these ids of the node."""
    config = pod_config(name, attempt=attempt)
    uids, gids = ((IdMapping(first, 0, 65536),) for first in (uid, gid))
    own = replace(config.security.namespaces, userns=UserNamespace(NamespaceMode.POD, uids, gids))
    return replace(config, security=replace(config.security, namespaces=own))


async def run(world: World, config: SandboxConfig) -> SandboxId:
    async with bounded():
        return await world.node.sandboxes.run(config, "")


@pytest.mark.parametrize(
    ("uid", "gid", "field"),
    [(65536, 65536, "uids"), (131071, 900_000, "uids"), (1000, 900_000, "uids"), (900_000, 131071, "gids")],
)
async def test_two_pods_with_ids_of_the_node_in_common_are_refused(
    world: World, uid: int, gid: int, field: str
) -> None:
    first = await run(world, shifted("web", 65536, 65536))
    where = rf"namespace_options.userns_options.{field}\[0\].host_id.*default/web \({first}\)"
    with pytest.raises(InvalidRequest, match=where):
        await run(world, shifted("thief", uid, gid))
    assert list(world.records.sandboxes) == [first]
    await run(world, shifted("neighbour", 131072, 131072))
    await world.pod("plain")


async def test_ids_are_held_from_the_first_moment_of_a_run(world: World) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    running = asyncio.ensure_future(run(world, shifted("web", 65536, 65536)))
    async with bounded():
        await hold.reached.wait()
    with pytest.raises(InvalidRequest, match="host_id"):
        await run(world, shifted("thief", 65536, 65536))
    hold.release.set()
    await running


async def test_ids_are_free_again_once_their_pod_was_stopped_and_a_pods_own_next_attempt_has_them(
    world: World,
) -> None:
    first = await run(world, shifted("web", 65536, 65536))
    assert await run(world, shifted("web", 65536, 65536)) == first
    second = await run(world, shifted("web", 65536, 65536, attempt=1))
    for pod in (first, second):
        await world.node.sandboxes.stop(pod)
    await run(world, shifted("heir", 65536, 65536))


async def test_a_run_tells_created_and_started_with_the_status_inside(world: World) -> None:
    subscription = world.node.events.subscribe()
    pod = await world.pod()
    created, started = await next_events(subscription, 2)
    assert (created.type, started.type) == (EventType.CREATED, EventType.STARTED)
    assert created.container_id == started.container_id == pod
    assert started.sandbox == world.node.sandboxes.get(pod)


async def test_the_network_is_told_what_it_needs_of_the_pod(world: World) -> None:
    pod = await world.pod()
    told = world.networks.last_told
    assert told is not None
    assert (told.id, told.netns) == (pod, f"/run/crib/sandboxes/{pod}/ns/net")
    assert told.metadata.name == "web"


async def test_the_network_is_told_the_cni_directory_of_the_pods_handler() -> None:
    settings = Settings(handlers={"crun": HandlerSettings(cni_conf_dir="/etc/cni/crun.d")})
    world = World(settings)
    await world.start()
    await world.pod()
    await world.close()
    assert world.networks.last_told is not None
    assert world.networks.last_told.conf_dir == "/etc/cni/crun.d"


async def test_a_pod_on_the_host_network_is_not_attached_nor_detached(world: World) -> None:
    async with bounded():
        pod = await world.node.sandboxes.run(pod_config(host_network=True), "")
        await world.node.sandboxes.remove(pod)
    assert {"attach", "detach"}.isdisjoint(world.networks.failpoints.names())


async def test_a_pod_is_started_when_it_is_prepared_and_its_network_is_there(world: World) -> None:
    hold, handler = world.networks.failpoints.hold("attach"), world.handler.failpoints
    running = asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
        assert (handler.count("prepare_pod"), handler.count("start_pod")) == (1, 0)
        hold.release.set()
        await running
    assert (handler.count("prepare_pod"), handler.count("start_pod")) == (1, 1)


@pytest.mark.parametrize("point", ["prepare_pod", "attach", "start_pod"])
async def test_a_failed_step_leaves_no_row_namespace_nor_address(world: World, point: str) -> None:
    fake = world.networks if point == "attach" else world.handler
    fake.failpoints.set(f"{point}=1*error(no address)")
    with pytest.raises(Broken, match="no address"):
        await world.pod()
    assert world.records.sandboxes == {}
    assert world.handler.host.pods == {}
    assert world.networks.held == {}
    assert await world.pod() in world.records.sandboxes


async def test_a_bug_in_a_step_is_torn_down_as_any_failure(world: World) -> None:
    world.networks.failpoints.set("attach=1*bug(oops)")
    with pytest.raises(RuntimeError, match="oops"):
        await world.pod()
    assert (world.records.sandboxes, world.handler.host.pods, world.networks.held) == ({}, {}, {})


@pytest.mark.parametrize("point", ["detach", "stop_pod", "remove_pod"])
async def test_a_teardown_that_fails_keeps_the_row_not_ready_and_the_retry_starts_anew(
    world: World, point: str
) -> None:
    fake = world.networks if point == "detach" else world.handler
    world.networks.failpoints.set("attach=1*error(no address)")
    fake.failpoints.set(f"{point}=1*error(still busy)")
    with pytest.raises(Broken, match="no address"):
        await world.pod()
    (row,) = world.node.sandboxes.list()
    assert row.state is SandboxState.NOT_READY
    assert "no address" in row.reason
    assert "still busy" in row.reason
    again = await world.pod()
    assert again != row.id
    assert set(world.records.sandboxes) == {again}
    assert set(world.handler.host.pods) == {again}
    assert set(world.networks.held) == {again}


async def test_a_retry_whose_clearing_fails_says_why_and_does_not_pile_up_reasons(world: World) -> None:
    world.networks.failpoints.set("attach=1*error(no address)")
    world.handler.failpoints.set("remove_pod=error(still busy)")
    with pytest.raises(Broken):
        await world.pod()
    for _ in range(3):
        with pytest.raises(AlreadyExists, match="still busy"):
            await world.pod()
    (row,) = world.node.sandboxes.list()
    assert row.reason.count("still busy") == 1
    world.handler.failpoints.clear()
    await world.pod()
    assert len(world.records.sandboxes) == 1


async def test_two_equal_runs_at_once_are_one_sandbox(world: World) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    first, second = asyncio.ensure_future(world.pod()), asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
        hold.release.set()
        assert await first == await second
    assert world.handler.failpoints.count("prepare_pod") == 1


async def test_a_retry_after_success_gets_the_same_id(world: World) -> None:
    assert await world.pod() == await world.pod()
    assert len(world.records.sandboxes) == 1


async def test_another_attempt_is_another_sandbox(world: World) -> None:
    assert await world.pod() != await world.pod(attempt=1)


async def test_a_different_config_under_the_same_name_is_refused_naming_the_field(world: World) -> None:
    pod = await world.pod()
    with pytest.raises(AlreadyExists, match=r"different hostname, labels"):
        await world.node.sandboxes.run(pod_config(hostname="other", labels={"a": "b"}), "")
    assert set(world.records.sandboxes) == {pod}


async def test_a_different_config_is_refused_while_the_first_run_is_under_way(world: World) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    first = asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
    with pytest.raises(AlreadyExists, match="hostname"):
        await world.node.sandboxes.run(pod_config(hostname="other"), "")
    hold.release.set()
    await first


async def test_an_unknown_handler_is_refused_before_anything_is_made(world: World) -> None:
    with pytest.raises(InvalidRequest, match=r"no handler 'kata' .* crun"):
        await world.node.sandboxes.run(pod_config(), "kata")
    assert world.records.written == []


async def test_a_cancelled_caller_does_not_cancel_the_run_and_a_later_equal_call_joins(world: World) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    first = asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(world.pod())
    await turns()
    assert not second.done()
    hold.release.set()
    async with bounded():
        pod = await second
    assert world.handler.failpoints.count("prepare_pod") == 1
    assert set(world.records.sandboxes) == {pod}


async def test_a_stopped_sandbox_keeps_its_name_until_it_is_removed(world: World) -> None:
    pod = await world.pod()
    await world.node.sandboxes.stop(pod)
    with pytest.raises(AlreadyExists, match="is stopped: remove it first"):
        await world.pod()
    await world.node.sandboxes.remove(pod)
    assert await world.pod() != pod


async def test_a_run_during_the_removal_of_the_same_name_waits_and_makes_a_new_one(world: World) -> None:
    pod = await world.pod()
    hold = world.handler.failpoints.hold("remove_pod")
    removing = asyncio.ensure_future(world.node.sandboxes.remove(pod))
    async with bounded():
        await hold.reached.wait()
        again = asyncio.ensure_future(world.pod())
        await turns()
        assert not again.done()
        assert world.handler.failpoints.count("remove_pod") == 1
        hold.release.set()
        await removing
        assert await again != pod
    assert world.handler.failpoints.count("remove_pod") == 1


async def test_a_run_that_the_stopping_daemon_ends_is_torn_down_and_its_caller_told(world: World) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    first = asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
    await world.close()
    with pytest.raises(Unavailable, match="ended before it was done"):
        await first
    assert (world.records.sandboxes, world.handler.host.pods) == ({}, {})


async def test_a_sysctl_of_the_host_is_refused_and_leaves_nothing(world: World) -> None:
    with pytest.raises(InvalidRequest, match="namespaced sysctl"):
        await world.node.sandboxes.run(pod_config(sysctls={"vm.swappiness": "1"}), "")
    assert world.records.sandboxes == {}


async def test_the_stages_of_a_run_are_kept_with_their_outcome(world: World) -> None:
    pod = await world.pod()
    start = world.node.timeline(pod[:12])
    stages = start.timeline.stages
    assert start.sandbox == pod
    assert world.node.timeline("web") == world.node.timeline(start.timeline.pod) == start
    assert [stage.name for stage in stages] == ["RunPodSandbox", "namespaces", "network"]
    assert {stage.outcome for stage in stages} == {"ok"}
    await world.node.sandboxes.remove(pod)
    later = world.node.timeline(pod)  # a pod that was removed lately is remembered
    assert later.timeline.stages[:3] == stages
    assert [stage.name for stage in later.timeline.stages[3:]] == [
        "RemovePodSandbox",
        "network",
        "namespaces",
        "files",
    ]
