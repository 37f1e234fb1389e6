"""The client against a fake runtime behind a real unix socket."""

# ruff: noqa: ASYNC110  # bounded

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from crib.client import Connection, connection, events, images, lookup, pods
from crib.client.errors import (
    Ambiguous,
    ClientError,
    InvalidRequest,
    NotFound,
    NotOffered,
    RuntimeFailure,
    TimedOut,
    Unavailable,
    from_rpc,
)
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def crib(world: World, tmp_path: Path) -> AsyncIterator[Connection]:
    server = await serve(f"{tmp_path}/s", world)
    async with Connection(f"unix://{tmp_path}/s") as found:
        yield found
    await server.stop(None)


def config(name: str = "web", uid: str = "u1", namespace: str = "default") -> cri.PodSandboxConfig:
    return cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace=namespace))


def container(name: str, *command: str) -> cri.ContainerConfig:
    return cri.ContainerConfig(metadata=cri.ContainerMetadata(name=name), command=command)


async def test_a_call_gives_the_reply(crib: Connection) -> None:
    reply = await crib.call(crib.runtime.Version, cri.VersionRequest())
    assert reply.runtime_name == "fake"


async def test_a_pod_runs_stops_and_is_removed(crib: Connection, world: World) -> None:
    pod = await pods.run(crib, config(), [container("a", "sleep"), container("b", "sleep")])
    assert list(pod.containers) == ["a", "b"]
    assert (await pods.container_status(crib, pod.containers["a"])).state == cri.CONTAINER_RUNNING
    await pods.stop(crib, pod.id, grace=7)
    assert world.stop_timeouts == [7, 7]
    assert world.pods[pod.id].state == cri.SANDBOX_NOTREADY
    await pods.remove(crib, pod.id)
    assert not world.pods
    assert not world.containers


async def test_a_pod_whose_container_fails_is_taken_back(crib: Connection, world: World) -> None:
    with pytest.raises(RuntimeFailure, match="crun start: no such file"):
        await pods.run(crib, config(), [container("a", "sleep"), container("b", "fail")])
    assert not world.pods


async def test_a_cancelled_caller_leaves_no_sandbox(crib: Connection, world: World) -> None:
    world.sandbox_gate = asyncio.Event()
    running = asyncio.ensure_future(pods.run_sandbox(crib, config()))
    async with asyncio.timeout(60):
        await world.calls.heard("RunPodSandbox")
        running.cancel()
        await asyncio.sleep(0)
        world.sandbox_gate.set()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert world.calls == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
    assert not world.pods


async def test_errors_are_of_the_tree_and_keep_the_runtimes_words(crib: Connection) -> None:
    with pytest.raises(InvalidRequest, match="no handler missing") as wrong:
        await pods.run_sandbox(crib, config(), "missing")
    assert wrong.value.code == "INVALID_ARGUMENT"
    with pytest.raises(NotFound, match="there is no container 'x'"):
        await pods.container_status(crib, "x")
    with pytest.raises(NotOffered, match="does not offer UpdateRuntimeConfig"):
        await crib.call(crib.runtime.UpdateRuntimeConfig, cri.UpdateRuntimeConfigRequest())


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ("Method not found!", "the runtime at unix:///s does not offer Exec"),
        ("unknown service crib.v1.Node", "the runtime at unix:///s does not offer Exec"),
        ("mounts of images are not built yet", "mounts of images are not built yet"),
    ],
)
def test_a_runtime_that_refuses_says_why_and_one_that_lacks_the_call_is_named(
    details: str, message: str
) -> None:
    empty = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, empty, empty, details, None)
    found = from_rpc(error, "unix:///s", "Exec")
    assert isinstance(found, NotOffered)
    assert str(found) == message


async def test_a_call_that_takes_too_long_is_timed_out(crib: Connection) -> None:
    stream = crib.stream(crib.runtime.GetContainerEvents, cri.GetEventsRequest(), timeout=0.05)
    with pytest.raises(TimedOut, match=r"GetEvents at unix://.* did not answer in time"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("make", ["nothing", "file"])
async def test_an_endpoint_without_a_socket_is_named_at_once(tmp_path: Path, make: str) -> None:
    path = tmp_path / "s"
    if make == "file":
        path.write_text("")
    with pytest.raises(Unavailable, match=f"{path}"):
        await Connection(str(path)).__aenter__()


async def test_a_socket_at_which_nobody_listens_is_unavailable(tmp_path: Path) -> None:
    server = await serve(f"{tmp_path}/s", World())
    (tmp_path / "s").rename(tmp_path / "old")
    await server.stop(None)
    import socket

    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(f"{tmp_path}/s")
    async with Connection(f"{tmp_path}/s") as crib:
        with pytest.raises(Unavailable, match="no runtime answers"):
            await crib.call(crib.runtime.Version, cri.VersionRequest())


@pytest.mark.parametrize("endpoint", ["tcp://1.2.3.4:5", "crib.sock", "unix:crib.sock", "unix://relative/x"])
def test_an_endpoint_that_is_no_unix_socket_is_refused(endpoint: str) -> None:
    with pytest.raises(ClientError, match="neither unix:///PATH nor an absolute path"):
        connection.normal_endpoint(endpoint)


def test_the_default_endpoint_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRIB_ENDPOINT", raising=False)
    assert connection.default_endpoint() == "unix:///run/crib/crib.sock"
    monkeypatch.setenv("CRIB_ENDPOINT", "unix:///x")
    assert connection.default_endpoint() == "unix:///x"


async def test_waiting_for_an_exit_ends_with_its_code(crib: Connection, world: World) -> None:
    pod = await pods.run(crib, config(), [container("a", "sleep")])
    waiting = asyncio.ensure_future(events.wait_exited(crib, pod.containers["a"]))
    async with asyncio.timeout(60):
        while not world.subscribers:
            await asyncio.sleep(0)
    world.exited(pod.containers["a"], 3)
    assert (await asyncio.wait_for(waiting, 60)).exit_code == 3


async def test_waiting_for_an_exit_is_bounded_and_names_a_removed_container(crib: Connection) -> None:
    pod = await pods.run(crib, config(), [container("a", "sleep")])
    with pytest.raises(TimedOut, match=r"still runs after 0\.05 s"):
        await events.wait_exited(crib, pod.containers["a"], timeout=0.05)
    await pods.remove(crib, pod.id)
    with pytest.raises(NotFound):
        await events.wait_exited(crib, pod.containers["a"])


async def test_pods_are_found_by_name_and_by_the_beginning_of_an_id(crib: Connection) -> None:
    one = await pods.run_sandbox(crib, config("web", "u1"))
    two = await pods.run_sandbox(crib, config("web", "u2", "other"))
    assert (await lookup.find_pod(crib, "other/web")).id == two.id
    assert (await lookup.find_pod(crib, one.id[:20])).id == one.id
    with pytest.raises(Ambiguous, match=r"'web' is the name of more than one pod: .*other/web"):
        await lookup.find_pod(crib, "web")
    with pytest.raises(NotFound, match="there is no pod 'db'"):
        await lookup.find_pod(crib, "db")
    with pytest.raises(NotFound):
        await lookup.find_pod(crib, "")


async def test_of_a_pods_sandboxes_the_ready_one_is_meant(crib: Connection, world: World) -> None:
    old = await pods.run_sandbox(crib, config())
    new = await pods.run_sandbox(crib, config())
    assert (await lookup.find_pod(crib, "web")).id == new.id
    world.pods[new.id].state = cri.SANDBOX_NOTREADY
    assert (await lookup.find_pod(crib, "web")).id == old.id


async def test_containers_are_found_through_their_pod(crib: Connection, world: World) -> None:
    pod = await pods.run(crib, config(), [container("a", "sleep"), container("b", "sleep")])
    assert (await lookup.find_container(crib, "web", "b")).container.id == pod.containers["b"]
    assert (await lookup.find_container(crib, pod.containers["a"][:16])).container.id == pod.containers["a"]
    with pytest.raises(Ambiguous, match="has several containers; choose one with -c: a, b"):
        await lookup.find_container(crib, "web")
    with pytest.raises(NotFound, match="has no container 'c'; it has: a, b"):
        await lookup.find_container(crib, "web", "c")
    world.pods[pod.id].annotations["kubectl.kubernetes.io/default-container"] = "b"
    assert (await lookup.find_container(crib, "web")).container.id == pod.containers["b"]


async def test_images_are_resolved_by_name_and_by_the_beginning_of_an_id(
    crib: Connection, world: World
) -> None:
    first = world.add_image("localhost/a:1", 0xABC << 200)
    world.add_image("localhost/b:1", 0xABD << 200)
    assert (await images.resolve(crib, "localhost/a:1")).id == first
    with pytest.raises(Ambiguous):
        await images.resolve(crib, "0000")
    with pytest.raises(NotFound, match="no image 'zzzz' on this node"):
        await images.resolve(crib, "zzzz")
    assert [image.repo_tags[0] for image in await images.list_images(crib)] == [
        "localhost/a:1",
        "localhost/b:1",
    ]


async def test_a_pull_tells_its_progress_and_ends_with_the_id(crib: Connection, world: World) -> None:
    seen = [item async for item in images.pull_progress(crib, "reg/a:1")]
    assert isinstance(seen[-1], images.Pulled)
    assert seen[-1].image_id in world.images
    assert len(seen) == 3


async def test_a_failed_pull_raises_the_daemons_words(crib: Connection) -> None:
    with pytest.raises(RuntimeFailure, match="no such image in the registry"):
        async for _ in images.pull_progress(crib, "reg/missing:1"):
            pass


async def test_a_pull_takes_credentials_and_a_platform(crib: Connection, world: World) -> None:
    auth = cri.AuthConfig(username="u", password="p", identity_token="i", registry_token="r")
    async for _ in images.pull_progress(crib, "reg/a:1", auth, "linux/arm64/v8"):
        pass
    asked = world.progress_requests[0]
    assert asked.start
    assert asked.platform == "linux/arm64/v8"
    given = asked.credentials
    assert (given.username, given.password) == ("u", "p")
    assert (given.identity_token, given.registry_token) == ("i", "r")
    async for _ in images.pull_progress(crib, "reg/a:1"):
        pass
    assert not world.progress_requests[1].HasField("credentials")


async def test_credentials_that_only_the_cri_can_say_go_through_it(crib: Connection, world: World) -> None:
    auth = cri.AuthConfig(auth="dTpw", server_address="reg.example")
    seen = [item async for item in images.pull_progress(crib, "reg.example/a:1", auth, "linux/amd64")]
    assert [type(item) for item in seen] == [images.Pulled]
    assert not world.progress_requests
    asked = world.pull_requests[0]
    assert asked.auth == auth
    assert asked.image.annotations == {"io.crib.platform": "linux/amd64"}


async def test_watching_follows_a_pull_and_starts_none(crib: Connection, world: World) -> None:
    with pytest.raises(NotFound):
        async for _ in images.watch(crib, "reg/a:1"):
            pass
    world.running_pulls.add("reg/a:1")
    seen = [item async for item in images.watch(crib, "reg/a:1")]
    assert isinstance(seen[-1], images.Pulled)
    assert not any(request.start for request in world.progress_requests)


async def test_checks_exports_and_explanations_ask_the_daemon(
    crib: Connection, world: World, tmp_path: Path
) -> None:
    world.explained.image = "docker.io/library/a:1"
    assert (await images.explain(crib, "a")).image == "docker.io/library/a:1"
    with pytest.raises(InvalidRequest, match=r"blocked by registries\.conf"):
        await images.explain(crib, "blocked")
    world.checked = [node_pb2.CheckProgress(finished=True, layers=3)]
    seen = [item async for item in images.check(crib, ["a", "b"], repair=True)]
    assert seen[-1].layers == 3
    assert list(world.check_requests[0].images) == ["a", "b"]
    assert world.check_requests[0].repair
    assert await images.export(crib, f"{tmp_path}/x.tar", ["a"], "docker") == 2048
    assert world.export_requests[0].format == "docker"


async def test_the_beginning_of_an_id_becomes_the_id_and_a_name_stays(crib: Connection, world: World) -> None:
    image_id = world.add_image("localhost/a:1", 0xABC << 240)
    assert await images.full_name(crib, "localhost/a:1") == "localhost/a:1"
    assert await images.full_name(crib, image_id.removeprefix("sha256:")[:8]) == image_id


async def test_a_runtime_without_the_node_service_is_pulled_from_by_the_cri(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world, node=False)
    async with Connection(f"{tmp_path}/s") as crib:
        auth = cri.AuthConfig(username="u", password="p")
        seen = [item async for item in images.pull_progress(crib, "reg/a:1", auth)]
        with pytest.raises(NotOffered, match="takes no platform"):
            async for _ in images.pull_progress(crib, "reg/a:1", platform="linux/arm64"):
                pass
        with pytest.raises(NotOffered, match="does not offer ExplainRegistry"):
            await images.explain(crib, "reg/a:1")
    await server.stop(None)
    assert [type(item) for item in seen] == [images.Pulled]
    assert world.calls == ["PullImage reg/a:1"]
    assert world.pull_requests[0].auth == auth
