"""A pod that is kept up on a runtime in memory: what happens to it is what the runtime is asked for."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from crib.client import Connection
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, PodPlan, Site
from crib.stubs.runtime.v1 import api_pb2 as cri
from crib.stubs.runtime.v1.api_pb2 import AuthConfig
from crib.supervisor import keeper
from crib.supervisor.backoff import Pauses
from crib.supervisor.keeper import PodKeeper, Surroundings
from crib.wire.kept import ContainerReport, PodReport
from tests.unit.client.fake_runtime import World, serve
from tests.unit.client.fake_volumes import VolumeWorld, serve_volumes

BOUND = 30.0
ONE = "containers: [{name: app, image: localhost/i:1}]"


class Heard:
    """What a keeper told; waits until something of it holds."""

    def __init__(self) -> None:
        self.reports: list[PodReport] = []
        self.notes: list[str] = []
        self._more = asyncio.Event()

    def told(self, report: PodReport) -> None:
        self.reports.append(report)
        self._more.set()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._more.set()

    def waits_for(self, what: str) -> None: ...

    async def pull(self, connection: Connection, image: str, auth: AuthConfig | None) -> None:
        raise AssertionError(f"{image} is here")

    async def until(self, holds: Callable[[ContainerReport], bool]) -> PodReport:
        """The first report, from now on, in which this holds of the pod's first own container."""
        async with asyncio.timeout(BOUND):
            while True:
                while self.reports:
                    report = self.reports.pop(0)
                    if any(holds(container) for container in report.containers):
                        return report
                self._more.clear()
                await self._more.wait()

    async def until_noted(self, text: str) -> None:
        """A note has that in it."""
        async with asyncio.timeout(BOUND):
            while not any(text in note for note in self.notes):
                self._more.clear()
                await self._more.wait()


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


def plan_of(directory: Path, spec: str = ONE) -> PodPlan:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, uid: u1}\nspec:\n"
    spec = textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ")
    return read_plans(text + spec, Site(Dirs(f"{directory}/pods"), 1 << 30)).pods[0]


class Kept:
    """A keeper at work, from the beginning to the end of a block."""

    def __init__(self, connection: Connection, directory: Path, spec: str = ONE, since: float = 0.0) -> None:
        self.heard = Heard()
        around = Surroundings(
            Dirs(f"{directory}/pods"), self.heard, self.heard.told, Pauses(first=0.05, most=0.2)
        )
        self.keeper = PodKeeper(connection, plan_of(directory, spec), around, since)

    async def __aenter__(self) -> Kept:
        self.task = asyncio.get_running_loop().create_task(self.keeper.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def runs(self, restarts: int = 0) -> ContainerReport:
        """Wait until the pod's container runs, started again so many times."""
        report = await self.heard.until(
            lambda one: (one.name, one.state, one.restarts) == ("app", "Running", restarts)
        )
        return report.containers[-1]

    def ends(self, world: World, container: str, code: int) -> None:
        """The container ends, and the keeper hears of it as it hears of any event."""
        world.exited(container, code)
        self.keeper.stir()


async def until(holds: Callable[[], bool]) -> None:
    """The fake tells nobody what it is asked for."""
    async with asyncio.timeout(BOUND):
        while not holds():  # noqa: ASYNC110  # nobody has an event for it
            await asyncio.sleep(0.005)


def logs(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "pods/u1/logs/app").iterdir())


async def test_a_container_that_ends_is_started_again_with_a_log_of_its_own(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    async with Kept(connection, tmp_path) as kept:
        for number in range(4):
            box = await kept.runs(number)
            Path(world.log_path(box.id)).write_text("")
            kept.ends(world, box.id, 1)
        await kept.runs(4)
        await until(lambda: logs(tmp_path) == ["3.log"])
    numbers = [status.metadata.attempt for status in world.containers.values()]
    assert numbers == [3, 4]
    assert len(world.pods) == 1
    assert "default/web: container app was started again (restart 4)" in kept.heard.notes


async def test_a_keeper_that_was_killed_is_replaced_by_one_that_goes_on(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    async with Kept(connection, tmp_path) as first:
        box = await first.runs()
    assert world.containers[box.id].state == cri.CONTAINER_RUNNING
    async with Kept(connection, tmp_path) as second:
        assert (await second.runs()).id == box.id
        second.ends(world, box.id, 0)
        await second.runs(1)
    assert world.calls.count("RunPodSandbox") == 1


async def test_a_liveness_probe_that_fails_restarts_its_container(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    world.exec_reply.exit_code = 1
    world.exec_reply.stdout = b"stuck"
    world.stop_code = 0  # it ends well when it is asked to, which is no success
    probe = "livenessProbe: {exec: {command: [ok]}, failureThreshold: 1, terminationGracePeriodSeconds: 7}"
    spec = f"restartPolicy: OnFailure\ncontainers:\n- name: app\n  image: localhost/i:1\n  {probe}"
    async with Kept(connection, tmp_path, spec) as kept:
        await kept.heard.until(lambda one: one.restarts == 1)
    assert "default/web: container app is stopped: liveness probe failed: stuck" in kept.heard.notes
    assert world.stop_timeouts[0] == 7


async def test_readiness_is_told_and_restarts_nothing(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    world.exec_reply.exit_code = 1
    probe = "readinessProbe: {exec: {command: [ok]}, failureThreshold: 1, periodSeconds: 1}"
    spec = f"containers:\n- name: app\n  image: localhost/i:1\n  {probe}"
    async with Kept(connection, tmp_path, spec) as kept:
        await kept.heard.until(lambda one: one.state == "Running" and not one.ready)
        world.exec_reply.exit_code = 0
        await kept.heard.until(lambda one: one.ready and one.restarts == 0)


async def test_a_container_is_not_up_before_its_startup_probe_succeeds(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    world.exec_reply.exit_code = 1
    probe = "startupProbe: {exec: {command: [up]}, periodSeconds: 1, failureThreshold: 1000}"
    probes = f"{probe}\n  livenessProbe: {{exec: {{command: [ok]}}}}"
    spec = f"containers:\n- name: app\n  image: localhost/i:1\n  {probes}"
    async with Kept(connection, tmp_path, spec) as kept:
        await kept.heard.until(lambda one: one.state == "Starting" and bool(one.id))
        world.exec_reply.exit_code = 0
        await kept.runs()
        asked = [list(request.cmd) for request in world.exec_requests]
        assert asked.index(["up"]) < (asked.index(["ok"]) if ["ok"] in asked else len(asked))


async def test_a_post_start_hook_that_fails_stops_its_container(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    world.exec_reply.exit_code = 1
    world.exec_reply.stderr = b"no"
    hook = "lifecycle: {postStart: {exec: {command: [begin]}}}"
    spec = f"restartPolicy: Never\ncontainers:\n- name: app\n  image: localhost/i:1\n  {hook}"
    async with Kept(connection, tmp_path, spec) as kept:
        report = await asyncio.wait_for(asyncio.shield(kept.task), BOUND)
    assert report.phase == "Failed"
    assert kept.heard.notes == ["default/web: container app is stopped: postStart hook: no"]


async def test_a_pod_whose_work_is_done_is_stopped(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    sidecar = "initContainers: [{name: side, image: localhost/i:1, restartPolicy: Always}]"
    spec = f"restartPolicy: OnFailure\n{sidecar}\n{ONE}"
    async with Kept(connection, tmp_path, spec) as kept:
        box = await kept.runs()
        kept.ends(world, box.id, 0)
        report = await asyncio.wait_for(asyncio.shield(kept.task), BOUND)
    assert report.phase == "Succeeded"
    assert [pod.state for pod in world.pods.values()] == [cri.SANDBOX_NOTREADY]
    assert not [one for one in world.containers.values() if one.state == cri.CONTAINER_RUNNING]


async def test_a_sandbox_that_is_lost_is_replaced(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    async with Kept(connection, tmp_path) as kept:
        box = await kept.runs()
        next(iter(world.pods.values())).state = cri.SANDBOX_NOTREADY
        kept.ends(world, box.id, 255)
        await kept.runs(1)
        await until(lambda: len(world.pods) == 1)
    assert [pod.metadata.attempt for pod in world.pods.values()] == [1]


async def test_what_cannot_be_made_is_told_and_tried_again(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    spec = "containers: [{name: app, image: localhost/i:1, command: [fail]}]"
    async with Kept(connection, tmp_path, spec) as kept:
        report = await kept.heard.until(lambda one: one.state == "CrashLoopBackOff")
        assert report.containers[-1].message == "container app: crun start: no such file"
        assert report.containers[-1].until
    assert kept.heard.notes == ["default/web: container app: crun start: no such file"]


async def test_the_pods_of_others_are_left_alone(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    theirs = cri.PodSandboxMetadata(name="kubelets", namespace="kube-system", uid="u2", attempt=5)
    await connection.call(
        connection.runtime.RunPodSandbox,
        cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(metadata=theirs)),
    )
    other = next(iter(world.pods))
    made = await connection.call(
        connection.runtime.CreateContainer, cri.CreateContainerRequest(pod_sandbox_id=other)
    )
    world.exited(made.container_id, 1)
    async with Kept(connection, tmp_path) as kept:
        box = await kept.runs()
        kept.ends(world, box.id, 1)
        await kept.runs(1)
        await kept.keeper.end(0)
    assert world.pods[other].state == cri.SANDBOX_READY
    assert world.containers[made.container_id].state == cri.CONTAINER_EXITED
    assert list(world.owner.values()).count(other) == 1


CLAIMED = """
containers: [{name: app, image: "localhost/i:1", volumeMounts: [{name: v, mountPath: /data}]}]
volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
"""


@pytest.fixture
async def volumes(tmp_path: Path) -> AsyncIterator[VolumeWorld]:
    """At the socket `v`."""
    world = VolumeWorld(directory=f"{tmp_path}/volumes")
    world.add_image("localhost/i:1")
    server = await serve_volumes(f"{tmp_path}/v", world)
    yield world
    await server.stop(None)


def newest(world: VolumeWorld) -> str:
    """Its id; the others may be gone."""
    return list(world.containers)[-1]


def mounted(world: VolumeWorld) -> list[str]:
    mounts = [mount for config in world.container_configs.values() for mount in config.mounts]
    return [mount.host_path for mount in mounts if mount.container_path == "/data"]


async def test_a_pod_gets_its_volumes_before_each_sandbox_and_from_each_new_keeper(
    volumes: VolumeWorld, tmp_path: Path
) -> None:
    async with Connection(f"{tmp_path}/v") as connection:
        async with Kept(connection, tmp_path, CLAIMED) as kept:
            first = await kept.runs()
            path = f"{volumes.directory}/{volumes.volumes['default/data'].id}"
            assert mounted(volumes) == [path]
            for pod in volumes.pods.values():
                pod.state = cri.SANDBOX_NOTREADY  # as a boot does
            kept.keeper.stir()
            await until(lambda: newest(volumes) != first.id)
            second = newest(volumes)
            await kept.heard.until(lambda one: (one.id, one.state) == (second, "Running"))
            assert len(volumes.publications) == 2
        async with Kept(connection, tmp_path, CLAIMED) as other:
            await other.heard.until(lambda one: (one.id, one.state) == (second, "Running"))
            assert len(volumes.publications) == 2, "nothing is started, so nobody asks"
            other.ends(volumes, second, 1)
            await until(lambda: newest(volumes) != second)
            assert len(volumes.publications) == 3
        assert set(mounted(volumes)) == {path}


async def test_a_volume_that_cannot_be_had_is_tried_again_like_a_sandbox(
    volumes: VolumeWorld, tmp_path: Path
) -> None:
    volumes.add_volume("default/data", block=True)
    async with Connection(f"{tmp_path}/v") as connection, Kept(connection, tmp_path, CLAIMED) as kept:
        await kept.heard.until_noted("is a device")
        assert volumes.pods == {}
        volumes.volumes["default/data"].spec.block = False
        await kept.runs()


def test_no_newer_image_is_pulled_for_a_pod_that_is_kept_up(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        """
        initContainers: [{name: first, image: "localhost/i:1", imagePullPolicy: Always}]
        containers: [{name: app, image: "localhost/i:1", imagePullPolicy: Always}]
        volumes: [{name: v, image: {reference: "localhost/i:1", pullPolicy: Always}}]
        """,
    )
    kept = keeper._pulling_what_is_missing(plan)
    assert [one.pull for one in (*kept.every_container(), *kept.volumes)] == ["IfNotPresent"] * 3  # type: ignore[attr-defined]  # as it comes
    never = plan_of(tmp_path, ONE.replace("name: app,", "name: app, imagePullPolicy: Never,"))
    assert [one.pull for one in keeper._pulling_what_is_missing(never).containers] == ["Never"]
