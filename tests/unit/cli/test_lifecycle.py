"""`crib start`, `stop`, `restart`, `kill`, `update`, `wait` and `rm`, of pods and of containers."""

# ruff: noqa: ASYNC110  # the fake tells nobody who subscribes

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from crib.cli import lifecycle, limits, waiting
from crib.cli.lifecycle_options import (
    Aim,
    KillOptions,
    RestartOptions,
    RmOptions,
    StartOptions,
    StopOptions,
    UpdateOptions,
    WaitOptions,
)
from crib.cli.session import CliSession, CommandError
from crib.client import ClientError, lookup
from crib.client.errors import Ambiguous, NotFound, NotOffered, PodFailure, TimedOut, WrongState
from crib.client.lookup import KUBELETS
from crib.manifest.plan import INIT_CONTAINER
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.cli.command_world import IMAGE, add_container, add_pod, served
from tests.unit.client.fake_runtime import World


@pytest.fixture
def world() -> World:
    world = World(tells_configs=True)
    world.add_image(IMAGE)
    return world


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    async with served(world, tmp_path) as made:
        yield made


def attempts_of(world: World, name: str) -> list[int]:
    return [s.metadata.attempt for s in world.containers.values() if s.metadata.name == name]


def the(world: World, name: str, attempt: int) -> cri.ContainerStatus:
    return next(
        s for s in world.containers.values() if (s.metadata.name, s.metadata.attempt) == (name, attempt)
    )


async def test_what_has_exited_starts_again_with_the_same_configuration(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    web = add_pod(world, "web")
    first = add_container(world, web, "server", cri.CONTAINER_EXITED)
    config = world.container_configs[first]
    config.log_path, config.command[:] = "server/0.log", ["serve"]
    config.envs.append(cri.KeyValue(key="MODE", value="grün".encode()))
    config.linux.security_context.run_as_user.value = 0
    await lifecycle.start(session, StartOptions(["web"]))
    again = world.container_configs[the(world, "server", 1).id]
    assert (again.log_path, list(again.command)) == ("server/1.log", ["serve"])
    assert (again.envs, again.linux) == (config.envs, config.linux)
    assert the(world, "server", 1).state == cri.CONTAINER_RUNNING
    assert capsys.readouterr().out == f"started default/web ({web[:12]})\n"
    await lifecycle.start(session, StartOptions(["web"]))
    assert capsys.readouterr().out == f"default/web ({web[:12]}) runs already\n"


async def test_the_attempt_before_stays_and_those_before_it_go(session: CliSession, world: World) -> None:
    add_container(world, add_pod(world, "web"), "server")
    for _ in range(3):
        await lifecycle.restart(session, RestartOptions(["web"], "server", 0))
    assert attempts_of(world, "server") == [2, 3]
    assert world.stop_timeouts == [0, 0, 0]


async def test_a_restart_takes_the_limits_in_force_along(session: CliSession, world: World) -> None:
    server = add_container(world, add_pod(world, "web"), "server")
    world.container_configs[server].linux.resources.cpu_shares = 512
    await limits.update(session, UpdateOptions(["web"], memory="64Mi"))
    await lifecycle.restart(session, RestartOptions(["default/web/server"]))
    resources = world.container_configs[the(world, "server", 1).id].linux.resources
    assert (resources.cpu_shares, resources.memory_limit_in_bytes) == (512, 64 << 20)


async def test_a_finished_init_container_is_not_started_again_unless_it_is_named(
    session: CliSession, world: World
) -> None:
    web = add_pod(world, "web")
    init = add_container(world, web, "init", cri.CONTAINER_EXITED, annotations={INIT_CONTAINER: "true"})
    add_container(world, web, "server")
    await lifecycle.restart(session, RestartOptions(["web"]))
    assert attempts_of(world, "init") == [0]
    await lifecycle.start(session, StartOptions([init[:12]]))
    assert attempts_of(world, "init") == [0, 1]


async def test_a_stopped_pod_gets_a_new_sandbox_and_its_init_containers_run_first(
    session: CliSession, world: World
) -> None:
    web = add_pod(world, "web", ready=False, labels={"app": "web"})
    init = add_container(world, web, "init", cri.CONTAINER_EXITED)
    world.container_configs[init].annotations[INIT_CONTAINER] = "true"
    world.containers[init].annotations[INIT_CONTAINER] = "true"
    world.container_configs[init].command[:] = ["exit", "0"]
    add_container(world, web, "server", cri.CONTAINER_EXITED)
    world.configs[web].log_directory = session.endpoint.removeprefix("unix://").rpartition("/")[0]
    world.container_configs[init].log_path = "0.log"
    await lifecycle.start(session, StartOptions(["web"]))
    (pod,) = world.pods.values()
    assert (pod.metadata.attempt, pod.state, dict(pod.labels)) == (1, cri.SANDBOX_READY, {"app": "web"})
    assert world.calls[-3:] == ["CreateContainer server", "StartContainer server", "RemovePodSandbox"]
    assert the(world, "server", 1).state == cri.CONTAINER_RUNNING

    await lifecycle.stop(session, StopOptions(["web"], time=0))
    config = world.container_configs[the(world, "init", 1).id]
    config.command[:] = ["exit", "4"]
    with pytest.raises(PodFailure, match="init container init exited with 4"):
        await lifecycle.restart(session, RestartOptions(["web"]))
    (pod,) = world.pods.values()
    assert (pod.metadata.attempt, pod.state) == (1, cri.SANDBOX_NOTREADY)


async def test_a_created_container_is_started_as_it_is(session: CliSession, world: World) -> None:
    web = add_pod(world, "web")
    made = add_container(world, web, "server", cri.CONTAINER_CREATED)
    await lifecycle.start(session, StartOptions([made]))
    assert world.containers[made].state == cri.CONTAINER_RUNNING
    with pytest.raises(WrongState, match=r"container default/web/server \(.*\) is running"):
        await lifecycle.start(session, StartOptions([made]))


async def test_a_runtime_that_does_not_tell_the_configuration_is_named(
    session: CliSession, world: World
) -> None:
    world.tells_configs = False
    add_container(world, add_pod(world, "web"), "server", cri.CONTAINER_EXITED)
    with pytest.raises(NotOffered, match="does not tell what it was made from"):
        await lifecycle.start(session, StartOptions(["web"]))
    assert attempts_of(world, "server") == [0]


async def test_pods_of_a_kubelet_are_left_to_it(session: CliSession, world: World) -> None:
    add_container(world, add_pod(world, "web", annotations={KUBELETS: "api"}), "server")
    for work in (
        lifecycle.start(session, StartOptions(["web"])),
        lifecycle.restart(session, RestartOptions(["web"])),
    ):
        with pytest.raises(ClientError, match="belongs to a kubelet, which starts it itself"):
            await work
    assert world.calls == []


async def test_a_single_container_is_stopped_killed_and_removed(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    web = add_pod(world, "web")
    add_container(world, web, "server")
    side = add_container(world, web, "side")
    with pytest.raises(ClientError, match=r"container default/web/side \(.*\) is running; stop it first"):
        await lifecycle.remove(session, RmOptions([side]))
    await lifecycle.stop(session, StopOptions([side], time=7))
    assert world.stop_timeouts == [7]
    await lifecycle.remove(session, RmOptions(["web"], "side"))
    assert attempts_of(world, "side") == []
    await lifecycle.kill(session, KillOptions(["web"], signal="SIGKILL"))
    assert world.stop_timeouts == [7, 0]
    with pytest.raises(ClientError, match="nothing runs in default/web"):
        await lifecycle.kill(session, KillOptions(["web"]))
    with pytest.raises(CommandError, match=r"cannot carry signal HUP, only KILL; .* kill -s HUP 1"):
        await lifecycle.kill(session, KillOptions(["web"], signal="HUP"))
    assert f"killed default/web ({web[:12]})" in capsys.readouterr().out


async def test_a_pod_whose_only_container_has_exited_is_not_called_running(
    session: CliSession, world: World
) -> None:
    web = add_pod(world, "web")
    with pytest.raises(ClientError, match=r"is still up \(0 of 0 containers running\); stop it first"):
        await lifecycle.remove(session, RmOptions(["web"]))
    add_container(world, web, "server", cri.CONTAINER_CREATED)
    with pytest.raises(ClientError, match=r"is still up \(0 of 1 containers running\); stop it first"):
        await lifecycle.remove(session, RmOptions(["web"]))
    world.containers.clear()
    world.owner.clear()
    add_container(world, web, "server", cri.CONTAINER_EXITED)
    await lifecycle.remove(session, RmOptions(["web"]))
    assert not world.pods


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cpus": "1.5"}, {"cpu_period": 100_000, "cpu_quota": 150_000}),
        ({"cpus": "250m"}, {"cpu_period": 100_000, "cpu_quota": 25_000}),
        ({"memory": "512m"}, {"memory_limit_in_bytes": 512 << 20}),
        ({"memory": "1.5G"}, {"memory_limit_in_bytes": 3 << 29}),
        ({"memory": "64Mi"}, {"memory_limit_in_bytes": 64 << 20}),
        ({"memory": "1048576"}, {"memory_limit_in_bytes": 1 << 20}),
        ({"memory_swap": "-1"}, {"memory_swap_limit_in_bytes": -1}),
        ({"pids": 100}, {"unified": {"pids.max": "100"}}),
        ({"pids": -1}, {"unified": {"pids.max": "max"}}),
        ({"cpu_quota": -1, "cpuset_cpus": "0-1"}, {"cpu_quota": -1, "cpuset_cpus": "0-1"}),
    ],
)
def test_limits_are_understood_as_docker_and_kubernetes_write_them(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert limits.resources(UpdateOptions(["web"], **options)) == cri.LinuxContainerResources(**expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name at least one limit to change"),
        ({"cpus": "many"}, "--cpus 'many' is not a quantity"),
        ({"cpus": "0"}, "--cpus must be more than 0"),
        ({"cpus": "1", "cpu_quota": 5}, "--cpus is a quota in a period of 100 ms"),
        ({"memory": "lots"}, "--memory 'lots' is not a quantity"),
        ({"memory": "0"}, "--memory '0' is out of range"),
        ({"pids": 0}, "--pids-limit 0 would let nothing run"),
    ],
)
def test_limits_that_make_no_sense_are_wrong_usage(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message) as wrong:
        limits.resources(UpdateOptions(["web"], **options))
    assert wrong.value.exit_code == 2


async def waited(work: Coroutine[Any, Any, None], world: World, event: asyncio.Future[None]) -> None:
    subscribed = len(world.subscribers)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(work)
        while len(world.subscribers) == subscribed:
            await asyncio.sleep(0)
        event.set_result(None)


async def test_wait_prints_the_exit_code(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    web = add_pod(world, "web")
    server = add_container(world, web, "server")
    subscribed = asyncio.get_running_loop().create_future()
    subscribed.add_done_callback(lambda _: world.exited(server, 7))
    await waited(waiting.wait(session, WaitOptions(["web"])), world, subscribed)
    assert capsys.readouterr().out == "7\n"
    add_container(world, web, "side", cri.CONTAINER_EXITED, exit_code=3)
    await waiting.wait(session, WaitOptions(["web"]))
    assert capsys.readouterr().out == "7 default/web/server\n3 default/web/side\n"


async def test_wait_for_other_things(
    session: CliSession, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotFound):
        await waiting.wait(session, WaitOptions(["web"]))
    with pytest.raises(TimedOut, match=r"web is not there after 0.1 s"):
        await waiting.wait(session, WaitOptions(["web"], aim=Aim.EXISTS, timeout="0.1"))
    web = add_pod(world, "web")
    server = add_container(world, web, "server", cri.CONTAINER_CREATED)
    await waiting.wait(session, WaitOptions(["web"], aim=Aim.EXISTS))
    with pytest.raises(TimedOut, match=r"web does not run after 0.1 s"):
        await waiting.wait(session, WaitOptions(["web"], aim=Aim.RUNNING, timeout="100ms"))
    world.containers[server].state = cri.CONTAINER_RUNNING
    await waiting.wait(session, WaitOptions(["web"], aim=Aim.RUNNING))
    with pytest.raises(CommandError, match="2 of 2 were not waited for"):
        await waiting.wait(session, WaitOptions(["web", "db"], timeout="0.05"))
    del world.pods[web]
    world.containers.clear()
    world.owner.clear()
    capsys.readouterr()
    await waiting.wait(session, WaitOptions(["web"], aim=Aim.REMOVED))
    assert capsys.readouterr().out == "web is gone\n"


async def test_the_only_container_that_runs_is_meant_and_finished_ones_are_never_listed(
    session: CliSession, world: World
) -> None:
    web = add_pod(world, "web")
    mark = {INIT_CONTAINER: "true"}
    add_container(world, web, "init", cri.CONTAINER_EXITED, annotations=mark)
    server = add_container(world, web, "server")
    side = add_container(world, web, "side", cri.CONTAINER_EXITED)
    async with session.connect() as crib:
        assert (await lookup.find_container(crib, "web")).container.id == server
        world.containers[side].state = cri.CONTAINER_RUNNING
        with pytest.raises(Ambiguous, match="has several containers; choose one with -c: server, side"):
            await lookup.find_container(crib, "web")
        world.containers[server].state = world.containers[side].state = cri.CONTAINER_EXITED
        with pytest.raises(Ambiguous, match="choose one with -c: server, side"):
            await lookup.find_container(crib, "web")
        assert (await lookup.find_container(crib, "default/web/init")).container.metadata.name == "init"
