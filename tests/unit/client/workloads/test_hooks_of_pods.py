"""A pod's start and end with its hooks, against a runtime in memory."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.client import Connection, lookup
from crib.client.errors import PodFailure
from crib.client.workloads.ending import LEAST_GRACE, PodEnd
from crib.client.workloads.launch import Launch
from crib.client.workloads.removal import stop_pod
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, Plans, PodPlan, Site
from crib.stubs.runtime.v1.api_pb2 import AuthConfig
from tests.unit.client.fake_runtime import World, serve


class Silent:
    """A listener of whom nobody hears."""

    def note(self, text: str) -> None: ...

    def __init__(self) -> None:
        self.waits: list[str] = []

    def waits_for(self, what: str) -> None:
        self.waits.append(what)

    async def pull(self, connection: Connection, image: str, auth: AuthConfig | None) -> None:
        raise AssertionError(f"{image} is here")


@pytest.fixture
def world() -> World:
    made = World()
    made.add_image("localhost/i:1")
    return made


@pytest.fixture
async def connection(world: World, tmp_path: Path) -> AsyncIterator[Connection]:
    server = await serve(f"{tmp_path}/s", world)
    async with Connection(f"{tmp_path}/s") as made:
        yield made
    await server.stop(None)


def plan_of(directory: Path, spec: str) -> PodPlan:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, uid: u1}\nspec:\n"
    return read_plans(
        text + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  "),
        Site(Dirs(f"{directory}/pods"), 1 << 30),
    ).pods[0]


HOOK = "lifecycle: {%s: {exec: {command: [do, %s]}}}"


async def start(
    connection: Connection, plan: PodPlan, directory: Path, listener: Silent | None = None
) -> str:
    launch = Launch(connection, Dirs(f"{directory}/pods"), listener or Silent())
    await launch.prepare(Plans((plan,)))
    return (await launch.start(plan)).id


async def test_a_container_begins_after_the_hook_of_the_one_before(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    plan = plan_of(
        tmp_path,
        f"""
        initContainers:
        - name: proxy
          image: localhost/i:1
          restartPolicy: Always
          startupProbe: {{exec: {{command: [is, up]}}}}
          {HOOK % ("postStart", "proxy")}
        containers:
        - name: app
          image: localhost/i:1
        """,
    )
    await start(connection, plan, tmp_path)
    assert [list(request.cmd) for request in world.exec_requests] == [["do", "proxy"], ["is", "up"]]
    assert world.calls[1:] == [
        f"{verb} {name}" for name in ("proxy", "app") for verb in ("CreateContainer", "StartContainer")
    ]


async def test_a_start_says_what_it_waits_for_and_when_it_does_no_more(
    connection: Connection, tmp_path: Path
) -> None:
    plan = plan_of(
        tmp_path,
        f"""
        initContainers:
        - name: migrate
          image: localhost/i:1
          command: [exit, '0']
        containers:
        - name: app
          image: localhost/i:1
          {HOOK % ("postStart", "app")}
        """,
    )
    listener = Silent()
    await start(connection, plan, tmp_path, listener)
    assert listener.waits == [
        "waiting for init container migrate",
        "",
        "waiting for the start of container app",
        "",
    ]


async def test_a_hook_that_fails_fails_the_pods_start(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    world.exec_reply.exit_code = 1
    world.exec_reply.stderr = b"no such table\n"
    plan = plan_of(
        tmp_path, f"containers:\n- name: app\n  image: localhost/i:1\n  {HOOK % ('postStart', 'app')}"
    )
    with pytest.raises(PodFailure, match="container app: postStart hook: no such table"):
        await start(connection, plan, tmp_path)
    assert not world.pods


async def test_containers_end_before_their_sidecars_within_one_grace_period(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    plan = plan_of(
        tmp_path,
        f"""
        initContainers:
        - {{name: log, image: localhost/i:1, restartPolicy: Always}}
        - {{name: proxy, image: localhost/i:1, restartPolicy: Always}}
        containers:
        - name: app
          image: localhost/i:1
          {HOOK % ("preStop", "app")}
        - {{name: db, image: localhost/i:1}}
        """,
    )
    pod = await start(connection, plan, tmp_path)
    world.calls.clear()
    told: list[str] = []
    world.exec_reply.exit_code = 3
    await PodEnd(connection, plan, told.append).end(pod, 20)
    names = [world.containers[one].metadata.name for one in world.stopped]
    assert set(names[:2]) == {"app", "db"}
    assert names[2:] == ["proxy", "log"]
    assert world.calls[-1] == "StopPodSandbox"
    assert [list(request.cmd) for request in world.exec_requests] == [["do", "app"]]
    assert told == ["container app: preStop hook: exit code 3"]
    assert all(LEAST_GRACE <= timeout <= 20 for timeout in world.stop_timeouts)


async def test_a_pod_is_stopped_with_its_hooks_by_its_name_alone(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    plan = plan_of(
        tmp_path, f"containers:\n- name: app\n  image: localhost/i:1\n  {HOOK % ('preStop', 'app')}"
    )
    await start(connection, plan, tmp_path)
    kept = tmp_path / "pods/u1/manifest.yaml"
    assert kept.stat().st_mode & 0o777 == 0o600
    dirs = Dirs(f"{tmp_path}/pods")
    await stop_pod(connection, await lookup.find_pod(connection, "web"), dirs, 9, lambda text: None)
    assert [list(request.cmd) for request in world.exec_requests] == [["do", "app"]]


async def test_without_a_grace_period_no_hook_runs(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    plan = plan_of(
        tmp_path, f"containers:\n- name: app\n  image: localhost/i:1\n  {HOOK % ('preStop', 'app')}"
    )
    pod = await start(connection, plan, tmp_path)
    await PodEnd(connection, plan, lambda text: None).end(pod, 0)
    assert not world.exec_requests
    assert world.stop_timeouts == [0]
