"""What a program may rely on with any CRI runtime, through the client library: one suite for the fake of
`crib.testing` and for real ones.

A test class derives from `CriContract` and gives the fixture `runtime`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crib.client import ContainerSpec, MountSpec, PodSpec, ResourceSpec, SyncClient, deadline
from crib.client.errors import ClientError, CommandFailed, ImageNotFound, NotFound, TimedOut
from crib.client.views import PodContainer
from crib.testing import FakeProgram

BOUND = 120.0
"""Seconds in which each test has to be through, on a slow machine."""
MISSING = "localhost:1/missing/image:1"
"""In no registry: nothing listens there."""
SCRIPTS = {
    "sh -c 'echo hello; echo trouble >&2; exit 3'": FakeProgram(b"hello\n", b"trouble\n", 3),
    "sh -c 'echo one; echo two; exit 4'": FakeProgram(b"one\ntwo\n", code=4),
    "sh -c 'cat; echo done >&2; exit 5'": FakeProgram(err=b"done\n", code=5, cats=True),
    "sleep 1000": FakeProgram(code=None),
}
"""What the programs of the suite do, for a runtime that runs none."""


@dataclass(frozen=True)
class RuntimeUnderTest:
    """A runtime, and an image on its node that has sh, cat, sleep and true."""

    client: SyncClient
    image: str
    has_events: bool = True
    logs: str = ""


class CriContract:
    """The suite."""

    @pytest.fixture(autouse=True)
    def in_time(self) -> Iterator[None]:
        with deadline(BOUND):
            yield

    @pytest.fixture
    def box(self, runtime: RuntimeUnderTest, spec: PodSpec) -> Iterator[PodContainer]:
        """A pod whose container runs until it is stopped."""
        made = runtime.client.run_pod_container(spec, ContainerSpec(runtime.image, ["sleep", "1000"]))
        yield made
        runtime.client.remove_pod_container(made)

    @pytest.fixture
    def spec(self, runtime: RuntimeUnderTest, tmp_path: Path) -> PodSpec:
        return PodSpec(
            "web",
            namespace="contract",
            labels={"app": "web"},
            log_directory=runtime.logs or str(tmp_path),
        )

    def test_it_says_who_it_is_and_is_ready(self, runtime: RuntimeUnderTest) -> None:
        info = runtime.client.status()
        assert info.name
        assert info.version
        assert {"RuntimeReady", "NetworkReady"} <= {condition.type for condition in info.conditions}

    def test_a_pod_with_a_container_is_shown_as_it_was_wanted(
        self, runtime: RuntimeUnderTest, box: PodContainer, spec: PodSpec
    ) -> None:
        pod = runtime.client.pod(box)
        assert (pod.name, pod.namespace, pod.ready) == (spec.name, spec.namespace, True)
        assert pod.labels["app"] == "web"
        assert pod.ip
        assert pod.id in [one.id for one in runtime.client.pods()]
        (container,) = runtime.client.containers(box)
        assert (container.name, container.state) == ("main", "running")
        assert container.exit_code is None
        assert container.started is not None
        assert runtime.client.container("contract/web").id == container.id

    def test_a_command_gives_its_output_errors_and_code(
        self, runtime: RuntimeUnderTest, box: PodContainer
    ) -> None:
        result = runtime.client.exec(box, ["sh", "-c", "echo hello; echo trouble >&2; exit 3"])
        assert (result.code, result.out, result.err) == (3, b"hello\n", b"trouble\n")
        with pytest.raises(CommandFailed, match="the command ended with 3: trouble"):
            result.check()
        assert runtime.client.exec("contract/web", ["true"], container="main").check().text == ""

    def test_a_command_reads_what_it_is_given(self, runtime: RuntimeUnderTest, box: PodContainer) -> None:
        sent = bytes(range(256)) * 1000
        result = runtime.client.exec(box, ["sh", "-c", "cat; echo done >&2; exit 5"], input=sent, timeout=60)
        assert (result.code, result.out, result.err) == (5, sent, b"done\n")
        with pytest.raises(TimedOut):
            runtime.client.exec(box, ["sleep", "1000"], input=b"", timeout=0.5)

    def test_a_command_that_takes_too_long_is_timed_out(
        self, runtime: RuntimeUnderTest, box: PodContainer
    ) -> None:
        with pytest.raises(TimedOut):
            runtime.client.exec(box, ["sleep", "1000"], timeout=1)

    def test_a_container_that_ends_leaves_its_code_and_log(
        self, runtime: RuntimeUnderTest, spec: PodSpec
    ) -> None:
        client = runtime.client
        command = ["sh", "-c", "echo one; echo two; exit 4"]
        made = client.run_pod_container(spec, ContainerSpec(runtime.image, command))
        try:
            ended = client.wait(made)
            assert ended.code == 4
            assert client.container(made.container).exit_code == 4
            with client.logs(made, follow=True) as lines:
                assert [(line.stream, line.text) for line in lines] == [("stdout", "one"), ("stdout", "two")]
            assert [line.text for line in client.logs(made, tail=1)] == ["two"]
            with pytest.raises(ClientError):
                client.exec(made, ["true"])
        finally:
            client.remove_pod_container(made)

    def test_a_wait_is_bounded(self, runtime: RuntimeUnderTest, box: PodContainer) -> None:
        with pytest.raises(TimedOut):
            runtime.client.wait(box, timeout=0.1)

    def test_stops_and_removals_can_be_repeated(self, runtime: RuntimeUnderTest, box: PodContainer) -> None:
        client = runtime.client
        for _ in range(2):
            client.stop_pod_container(box, grace=0)
        assert not client.pod(box).ready
        assert client.container(box.container).state == "exited"
        for _ in range(2):
            client.remove_pod_container(box)
        for ask in (lambda: client.pod(box.pod), lambda: client.container(box.container)):
            with pytest.raises(NotFound):
                ask()
        assert box.pod.id not in [pod.id for pod in client.pods()]

    def test_a_second_container_is_made_started_and_removed(
        self, runtime: RuntimeUnderTest, box: PodContainer
    ) -> None:
        client = runtime.client
        wanted = ContainerSpec(runtime.image, ["sleep", "1000"], name="more", env={"A": "1"})
        more = client.create_container(box, wanted)
        assert client.container(more).state == "created"
        client.start_container(more)
        assert client.container("contract/web", "more").state == "running"
        client.stop_container(more, grace=0)
        assert client.container(more).state == "exited"
        client.remove_container(more)
        assert [container.name for container in client.containers(box)] == ["main"]

    def test_an_image_that_is_missing_is_told_by_its_class(
        self, runtime: RuntimeUnderTest, spec: PodSpec
    ) -> None:
        client = runtime.client
        with pytest.raises(ImageNotFound):
            client.image(MISSING)
        with pytest.raises(ImageNotFound):
            client.run_pod_container(spec, ContainerSpec(MISSING), pull="never")
        pod = client.run_pod(spec)
        try:
            raw = ContainerSpec(MISSING)
            with pytest.raises(ImageNotFound):
                client.create_container(pod, raw, pull="never")
        finally:
            client.remove_pod(pod)
        image = client.image(runtime.image)
        assert image.id in [one.id for one in client.images()]
        assert image.size > 0

    def test_what_is_not_there_is_not_found(self, runtime: RuntimeUnderTest) -> None:
        for ask in (runtime.client.pod, runtime.client.container, runtime.client.stop_pod):
            with pytest.raises(NotFound, match="'nobody'"):
                ask("nobody")

    def test_running_containers_have_figures(self, runtime: RuntimeUnderTest, box: PodContainer) -> None:
        reading = runtime.client.stats()
        (pod,) = [pod for pod in reading.pods if pod.id == box.pod.id]
        (container,) = pod.containers
        assert container.id == box.container.id
        assert container.usage.memory is not None

    def test_events_tell_a_containers_life(self, runtime: RuntimeUnderTest, spec: PodSpec) -> None:
        if not runtime.has_events:
            pytest.skip("this runtime sends no events")
        lives: dict[str, list[str]] = {}
        whole = threading.Event()
        events = runtime.client.events(kinds=["container"], pod="contract/web")

        def listen() -> None:
            for event in events:
                life = lives.setdefault(event.id, [])
                life.append(event.action)
                if event.action == "stopped":
                    assert event.exit_code == 137
                if life == ["created", "started", "stopped", "deleted"]:
                    whole.set()

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            while not whole.is_set():  # nobody is told from when on events are heard
                made = runtime.client.run_pod_container(spec, ContainerSpec(runtime.image, ["sleep", "1000"]))
                runtime.client.stop_pod_container(made, grace=0)
                runtime.client.remove_pod_container(made)
        finally:
            events.close()
            listener.join(BOUND)
        assert not listener.is_alive()

    def test_limits_environment_and_mounts_reach_the_container(
        self, runtime: RuntimeUnderTest, spec: PodSpec, tmp_path: Path
    ) -> None:
        (tmp_path / "shared").mkdir()
        wanted = ContainerSpec(
            runtime.image,
            ["sleep", "1000"],
            env={"GREETING": "hello"},
            mounts=[MountSpec(str(tmp_path / "shared"), "/shared", readonly=True)],
            resources=ResourceSpec(memory="64Mi", cpu=0.5),
        )
        made = runtime.client.run_pod_container(spec, wanted)
        try:
            (mount,) = [one for one in made.container.raw.mounts if one.container_path == "/shared"]
            assert mount.readonly
        finally:
            runtime.client.remove_pod_container(made)
