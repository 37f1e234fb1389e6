"""What the two faces do beyond the contract that holds for every runtime (tests/contract/cri_contract.py)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crib.client import (
    Client,
    Connection,
    ContainerSpec,
    PodSpec,
    PullReport,
    SyncClient,
    blocking,
    deadline,
    execution,
    specs,
)
from crib.client.errors import (
    Exhausted,
    ImageNotFound,
    InvalidRequest,
    NotFound,
    PodFailure,
    RuntimeFailure,
    TimedOut,
    Unavailable,
)
from crib.client.specs import MountSpec, PortSpec, ResourceSpec, container_config, pod_config
from crib.client.views import container_info
from crib.manifest.plan import Dirs
from crib.stubs.runtime.v1 import api_pb2 as cri
from crib.testing import FakeProgram, FakeServer
from tests.unit.client.fake_runtime import World, serve
from tests.unit.streaming.lab import Command, Lab, cat, forever

BOUND = 60.0
"""Seconds in which anything that is waited for has to come."""


def until(condition: Callable[[], object]) -> None:
    """Look again until it is so; a server tells its tests nothing."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.01)  # see above


DIRS = Dirs("/pods")
BUSYBOX = ContainerSpec("busybox", ["sleep", "1000"])


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as found:
        yield found


@pytest.fixture
def client(server: FakeServer, tmp_path: Path) -> Iterator[SyncClient]:
    with SyncClient(server.endpoint, pods_dir=f"{tmp_path}/pods") as found:
        yield found


def test_an_image_is_pulled_when_it_is_missing_always_or_never(
    server: FakeServer, client: SyncClient
) -> None:
    with pytest.raises(ImageNotFound, match="busybox is not on this node, and it is not to be pulled"):
        client.run_pod_container(PodSpec("a"), BUSYBOX, pull="never")
    for pull, pulls in (("missing", 1), ("missing", 1), ("never", 1), ("always", 2)):
        client.run_pod_container(PodSpec("a"), BUSYBOX, pull=pull)  # type: ignore[arg-type]
        assert server.calls.count("PullImage") == pulls


def test_what_fails_halfway_leaves_nothing(server: FakeServer, client: SyncClient) -> None:
    server.fail("StartContainer", "UNKNOWN", "no such program")
    with pytest.raises(RuntimeFailure, match="no such program"):
        client.run_pod_container(PodSpec("a"), BUSYBOX)
    assert not server.world.pods
    assert not server.world.containers


def test_logs_that_the_library_placed_go_with_their_pod(
    client: SyncClient, server: FakeServer, tmp_path: Path
) -> None:
    server.world.programs["talk"] = FakeProgram(b"hello\n")
    ours = client.run_pod_container(PodSpec("a"), ContainerSpec("busybox", ["talk"]))
    named = PodSpec("b", log_directory=str(tmp_path / "theirs"))
    theirs = client.run_pod_container(named, ContainerSpec("busybox", ["talk"]))
    for made in (ours, theirs):
        client.wait(made)
        assert [line.text for line in client.logs(made)] == ["hello"]
        client.remove_pod(made)
    assert sorted(os.listdir(tmp_path)) == ["pods", "theirs"]
    assert os.listdir(tmp_path / "pods") == []


def test_a_log_that_cannot_be_reached_is_named(client: SyncClient) -> None:
    made = client.run_pod_container(PodSpec("a", log_directory="/nowhere/at/all"), BUSYBOX)
    with pytest.raises(NotFound, match=r"there is no log file /nowhere/at/all/main\.log"):
        list(client.logs(made))


def test_reads_outlast_a_restart_and_changes_are_not_made_twice(
    server: FakeServer, client: SyncClient
) -> None:
    made = client.run_pod_container(PodSpec("a"), BUSYBOX)
    server.stop()
    threading.Timer(0.2, server.start).start()
    assert client.pod(made).ready
    server.fail("StopContainer", "UNAVAILABLE", "shutting down", times=2)
    client.stop_container(made)
    assert client.container(made.container).state == "exited"
    server.fail("RunPodSandbox", "UNAVAILABLE", "shutting down", times=1)
    with pytest.raises(Unavailable, match="shutting down"):
        client.run_pod(PodSpec("b"))


def test_a_deadline_holds_in_the_thread_that_does_the_work(server: FakeServer, client: SyncClient) -> None:
    held = server.hold("Version")
    made = client.run_pod_container(PodSpec("a"), BUSYBOX)
    with deadline(0.1):
        with pytest.raises(TimedOut):
            client.status()
        with pytest.raises(TimedOut):
            client.wait(made)
    held.release()
    assert client.status().name == "fake"


def test_an_endpoint_without_a_socket_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no such socket"), SyncClient(f"{tmp_path}/s"):
        pass


def test_a_callback_that_calls_the_client_is_told_not_to(tmp_path: Path) -> None:
    world, problems = World(), []
    runner = blocking.run(serve(f"{tmp_path}/s", world))
    with SyncClient(f"{tmp_path}/s") as client:

        def progress(report: PullReport) -> None:
            try:
                client.images()
            except RuntimeError as error:
                problems.append(str(error))

        client.pull("reg/a:1", progress=progress)
    blocking.run(runner.stop(None))
    assert problems == ["a callback must not call the client that called it"] * 2


async def test_a_pull_tells_how_far_it_is(tmp_path: Path) -> None:
    server = await serve(f"{tmp_path}/s", World())
    seen: list[PullReport] = []
    async with Client(f"{tmp_path}/s") as client:
        image = await client.pull("reg/a:1", progress=seen.append, auth=("u", "p"))
        with pytest.raises(RuntimeFailure, match="no such image in the registry"):
            await client.pull("reg/missing:1")
        (brought,) = await client.import_images("/archive.tar", ["localhost/brought:1"])
        assert brought.names == ("localhost/brought:1",)
        assert [found.names[0] for found in await client.images()] == ["localhost/brought:1", "reg/a:1"]
    await server.stop(None)
    assert image.names == ("reg/a:1",)
    assert [(one.stage, one.done_bytes, one.total_bytes) for one in seen] == [
        ("fetching", 45, 70),
        ("done", 70, 70),
    ]
    assert (seen[0].layers, seen[0].layers_done, seen[1].layers_done) == (3, 1, 3)


def test_an_interrupt_ends_the_call_and_what_it_had_begun(
    server: FakeServer, client: SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "INTERRUPT_SECONDS", 0)
    held = server.hold("RunPodSandbox")
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: "RunPodSandbox" in server.calls)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        client.run_pod(PodSpec("a"))
    thread.join()
    held.release()
    until(lambda: server.calls[-2:] == ["StopPodSandbox", "RemovePodSandbox"])
    until(lambda: not server.world.pods)


def test_an_iterator_gives_its_items_before_its_error(client: SyncClient, server: FakeServer) -> None:
    server.fail("GetContainerEvents", "UNKNOWN", "no events today")
    events = client.events()
    with pytest.raises(RuntimeFailure, match="no events today"):
        next(events)
    events.close()
    events.close()
    assert list(events) == []


def test_an_iterator_that_nobody_wants_any_more_ends_its_call(client: SyncClient, server: FakeServer) -> None:
    made = client.run_pod_container(PodSpec("a"), BUSYBOX)

    def work() -> None:
        events = client.events()
        thread = threading.Thread(target=stir, args=(server, made.container.id))
        thread.start()
        assert next(events).action == "started"
        thread.join()

    work()
    until(lambda: not server.world.subscribers)


def stir(server: FakeServer, container_id: str) -> None:
    """Send an event as soon as somebody listens."""

    async def tell() -> bool:
        if server.world.subscribers:
            server.world.tell(container_id, cri.CONTAINER_STARTED_EVENT)
        return bool(server.world.subscribers)

    until(lambda: blocking.run(tell()))


async def test_events_of_another_runtime_go_on_after_it_was_away(server: FakeServer) -> None:
    seen = []
    async with Client(server.endpoint) as client, asyncio.timeout(BOUND):
        made = await client.run_pod_container(PodSpec("a"), BUSYBOX)
        stirring = asyncio.ensure_future(asyncio.to_thread(stir, server, made.container.id))
        async for event in client.events(kinds=["container", "node"]):
            seen.append((event.kind, event.action))
            if event.action == "missed":
                server.start()
                stirring = asyncio.ensure_future(asyncio.to_thread(stir, server, made.container.id))
                continue
            await stirring
            if len(seen) > 1:
                break
            server.stop()
    assert seen == [("container", "started"), ("node", "missed"), ("container", "started")]


async def test_a_command_reads_what_it_is_given(lab: Lab, connection: Connection) -> None:
    lab.script = cat
    sent = os.urandom(300_000)
    found = await execution.execute(connection, lab.box.id, ["cat"], sent, None)
    assert (found.code, found.out, found.err) == (0, sent, b"")


async def test_a_command_over_streams_is_bounded_in_time_and_output(
    lab: Lab, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.script = forever
    with pytest.raises(TimedOut, match=r"'yes' in container .* still runs after 0\.1 s"):
        await execution.execute(connection, lab.box.id, ["yes"], b"", 0.1)

    async def chatter(command: Command) -> int:
        while True:
            await command.say(bytes(1 << 16))

    lab.script = chatter
    monkeypatch.setattr(execution, "MAX_OUTPUT", 1 << 20)
    with pytest.raises(Exhausted, match="'yes' wrote more than 1048576 bytes"):
        await execution.execute(connection, lab.box.id, ["yes"], b"", None)


def test_a_pods_wishes_are_the_cris() -> None:
    config = pod_config(
        PodSpec(
            "web",
            uid="u1",
            ports=[PortSpec(80, 8080, "udp", "127.0.0.1")],
            dns_servers=["10.0.0.53"],
            sysctls={"net.core.somaxconn": "128"},
            host_pid=True,
            raw=cri.PodSandboxConfig(hostname="other", annotations={"a": "b"}),
        ),
        DIRS,
    )
    assert (config.hostname, config.annotations["a"]) == ("other", "b")
    assert config.log_directory == config.annotations[specs.LOGS_ANNOTATION] == "/pods/u1/logs"
    (port,) = config.port_mappings
    assert (port.container_port, port.host_port, port.protocol, port.host_ip) == (80, 8080, 1, "127.0.0.1")
    assert list(config.dns_config.servers) == ["10.0.0.53"]
    assert config.linux.sysctls["net.core.somaxconn"] == "128"
    options = config.linux.security_context.namespace_options
    assert (options.network, options.pid) == (cri.POD, cri.NODE)
    uids = {pod_config(PodSpec("x"), DIRS).metadata.uid for _ in range(2)}
    assert len(uids) == 2
    assert pod_config(config, DIRS) is config


def test_a_containers_wishes_are_the_cris() -> None:
    spec = ContainerSpec(
        "busybox",
        ["sh"],
        ["-c", "true"],
        env={"A": "1"},
        user="1000:100",
        mounts=[MountSpec("/srv", "/data", readonly=True, propagation="slave")],
        resources=ResourceSpec(cpu="500m", memory="64Mi", cpu_share=2, oom_score=7),
        drop_capabilities=["ALL"],
        raw=cri.ContainerConfig(working_dir="/tmp"),
    )
    config = container_config(spec, cri.PodSandboxConfig())
    assert (list(config.command), list(config.args), config.working_dir) == (["sh"], ["-c", "true"], "/tmp")
    assert [(env.key, env.value) for env in config.envs] == [("A", b"1")]
    context = config.linux.security_context
    assert (context.run_as_user.value, context.run_as_group.value) == (1000, 100)
    assert list(context.capabilities.drop_capabilities) == ["ALL"]
    (mount,) = config.mounts
    assert (mount.host_path, mount.readonly, mount.propagation) == ("/srv", True, 1)
    limits = config.linux.resources
    assert (limits.cpu_quota, limits.cpu_period, limits.cpu_shares) == (50_000, 100_000, 2048)
    assert (limits.memory_limit_in_bytes, limits.oom_score_adj) == (64 << 20, 7)
    named = container_config(ContainerSpec("busybox", user="nobody"), cri.PodSandboxConfig())
    assert named.linux.security_context.run_as_username == "nobody"
    assert container_config(config, cri.PodSandboxConfig()) is config


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ContainerSpec(""), "ContainerSpec.image is empty"),
        (ContainerSpec("a", user="1:wheel"), "ContainerSpec.user: the group 'wheel' is not a number"),
        (ContainerSpec("a", resources=ResourceSpec(memory="much")), "ResourceSpec.memory: 'much' is not"),
        (ContainerSpec("a", resources=ResourceSpec(cpu=-1)), "ResourceSpec.cpu: "),
    ],
)
def test_a_wish_that_cannot_be_is_named(spec: ContainerSpec, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        container_config(spec, cri.PodSandboxConfig())
    with pytest.raises(InvalidRequest, match=r"PodSpec\.name is empty"):
        pod_config(PodSpec(""), DIRS)
    with pytest.raises(InvalidRequest, match=r"PodSpec\.uid: '\.\./x' cannot be"):
        pod_config(PodSpec("a", uid="../x"), DIRS)


def test_times_are_in_utc(client: SyncClient) -> None:
    made = client.run_pod_container(PodSpec("a"), BUSYBOX)
    assert abs((made.pod.created - datetime.now(UTC)).total_seconds()) < 60
    assert str(made.pod) == f"default/a ({made.pod.id[:12]})"
    assert str(made.container) == f"main ({made.container.id[:12]})"


MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers:
  - {name: one, image: "busybox:1", volumeMounts: [{name: data, mountPath: /data}]}
  - {name: two, image: "busybox:1", livenessProbe: {exec: {command: ["true"]}}}
  volumes: [{name: data, emptyDir: {}}]
"""


def test_a_manifest_runs_from_text_and_from_a_file_and_leaves_no_files(
    client: SyncClient, server: FakeServer, tmp_path: Path
) -> None:
    notes: list[str] = []
    (pod,) = client.run_manifest(MANIFEST, note=notes.append)
    assert str(pod).startswith("shop/web (")
    assert [container.name for container in client.containers(pod)] == ["one", "two"]
    assert os.listdir(tmp_path / "pods") == [pod.uid]
    assert any("nobody keeps the pod up" in note for note in notes)
    (tmp_path / "web.yaml").write_text(MANIFEST)
    with pytest.raises(PodFailure, match=r"shop/web .* runs"):
        client.run_manifest(tmp_path / "web.yaml")
    (other,) = client.run_manifest(str(tmp_path / "web.yaml"), replace=True)
    assert [found.id for found in client.pods()] == [other.id]
    client.remove_pod(other)
    assert os.listdir(tmp_path / "pods") == []
    assert not server.world.pods


def test_all_that_is_wrong_with_a_manifest_is_told(client: SyncClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        client.run_manifest(
            MANIFEST.replace("name: one", "name: One").replace("mountPath: /data", "mountPath: 1")
        )
    assert len(wrong.value.message.splitlines()) == 2
    with pytest.raises(NotFound, match="there is no manifest /nowhere"):
        client.run_manifest("/nowhere.yaml")
    (tmp_path / "x").write_bytes(b"\xff\n")
    with pytest.raises(InvalidRequest, match="is not UTF-8 text"):
        client.run_manifest(tmp_path / "x")


async def test_a_port_of_a_pod_is_reached_through_one_of_this_machine(
    lab: Lab, connection: Connection, world: World
) -> None:
    """As programs do it that know no asyncio."""
    world.add_image("busybox")
    lab.refused.add(81)

    def talk() -> tuple[bytes, bytes]:
        with SyncClient(connection.endpoint) as client:
            box = client.run_pod_container(PodSpec("a", log_directory="/x"), BUSYBOX)
            with client.forward(box, 80) as where, socket.create_connection(where, BOUND) as peer:
                peer.sendall(b"hello")
                peer.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: peer.recv(100), b""))
                refused = pytest.raises(RuntimeFailure, match=f"cannot listen on 127.0.0.1:{where[1]}")
                with refused, client.forward(box, 80, local_port=where[1]):
                    pass
            with client.forward(box, 81) as where, socket.create_connection(where, BOUND) as peer:
                return answer, peer.recv(100)

    assert await asyncio.to_thread(talk) == (b"hello", b"")


async def test_files_are_copied_both_ways(lab: Lab, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("data")
    written: list[bytes] = []

    async def tar(command: Command) -> int:
        words = command.wanted.argv  # type: ignore[union-attr]  # an exec has them
        if words[0] == "test":
            return 1
        if words[1] == "cf":
            await command.say(b"".join(written))
            return 0
        assert command.stdin is not None
        written.append(await command.stdin.read_all())
        return 0

    lab.script = tar
    async with Client(connection.endpoint) as client:
        box = container_info(cri.ContainerStatus(id=lab.box.id))
        assert await client.copy_to(box, str(tmp_path / "here"), "/there") == []
        assert await client.copy_from(box, "/there", str(tmp_path / "back")) == []
    assert (tmp_path / "back").read_text() == "data"
