"""The fake runtime does what a test tells it, and pytest finds its fixtures."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crib.client import Client, CommandSpec, ContainerSpec, PodSpec, SyncClient, Target, streams
from crib.client.blocking import run
from crib.client.errors import (
    ClientError,
    ImageNotFound,
    InvalidRequest,
    NotFound,
    NotOffered,
    RuntimeFailure,
    TimedOut,
    WrongState,
)
from crib.client.streams import StreamOptions
from crib.client.workloads import PODS_DIR_VARIABLE
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.testing import FakeProgram, FakeServer
from tests.unit.streaming.lab import until

ROOT = Path(__file__).parents[3]
SLEEP = ContainerSpec("busybox", ["sleep", "1000"])


@pytest.fixture(autouse=True)
def own_files_of_pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake writes real logs: not into the host's own directory."""
    monkeypatch.setenv(PODS_DIR_VARIABLE, str(tmp_path / "pods"))


def test_a_call_fails_as_often_as_it_is_told() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        server.fail("Version", "INTERNAL", "no", times=2)
        server.fail("Version", "UNKNOWN", times=1)
        for message in ("no", "no", "Version fails, as it was told"):
            with pytest.raises(RuntimeFailure, match=f"^{message}$"):
                client.status()
        assert client.status().name == "fake"
        server.fail("Version", "INTERNAL", "no")
        server.clear_rules()
        assert client.status().ready
        with pytest.raises(KeyError):
            server.fail("Version", "NO_SUCH_CODE")


def test_a_call_is_late_or_waits_until_it_is_let_go() -> None:
    with FakeServer() as server, SyncClient(server.endpoint, timeout=0.1, patience=0) as client:
        server.delay("Status", 60, times=1)
        with pytest.raises(TimedOut):
            client.status()
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        held = server.hold("Version")
        names: list[str] = []
        asking = threading.Thread(target=lambda: names.append(client.status().name))
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
        held.release()
        asking.join()
        assert names == ["fake"]
        assert client.status().name == "fake"


def test_what_was_asked_is_kept() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        client.run_pod(PodSpec("web", handler="gvisor"))
    assert server.calls == ["RunPodSandbox", "PodSandboxStatus"]
    request = server.asked[0].request
    assert (request.config.metadata.name, request.runtime_handler) == ("web", "gvisor")  # type: ignore[attr-defined]


def test_programs_do_as_they_are_told() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        server.world.programs["expr"] = lambda argv: FakeProgram(str(len(argv)).encode())
        server.world.programs["expr bad"] = FakeProgram(err=b"syntax", code=2)
        server.world.programs["nothing"] = FakeProgram(refusal="nothing: no such program")
        box = client.run_pod_container(PodSpec("a"), SLEEP)
        assert client.exec(box, ["expr", "1", "+"]).text == "3"
        assert client.exec(box, ["expr", "bad", "1"]).code == 2
        assert client.exec(box, ["other"]).check().out == b""
        with pytest.raises(InvalidRequest, match="no such program"):
            client.exec(box, ["nothing"])
        with pytest.raises(InvalidRequest, match="no such program"):
            client.run_pod_container(PodSpec("b"), ContainerSpec("busybox", ["nothing"]))
        with pytest.raises(WrongState, match="was started before"):
            client.start_container(box)


def test_a_test_ends_a_container_and_writes_its_log(tmp_path: Path) -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        box = client.run_pod_container(PodSpec("a", log_directory=str(tmp_path)), SLEEP)
        server.write(box.container.id, b"one\ntwo\n")
        server.write(box.container.id, b"oh", stream="stderr")
        server.exit(box.container.id, 5)
        assert client.wait(box).code == 5
        found = [(line.stream, line.text) for line in client.logs(box)]
    assert found == [("stdout", "one"), ("stdout", "two"), ("stderr", "oh")]


def test_a_registry_has_what_it_was_given() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        server.world.registry = {"here:1"}
        assert client.pull("here:1").names == ("here:1",)
        with pytest.raises(ImageNotFound):
            client.pull("gone:1")
        client.remove_image("here:1")
        assert client.images() == []


def test_a_call_that_the_fake_does_not_have_is_not_offered(caplog: pytest.LogCaptureFixture) -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        box = client.run_pod_container(PodSpec("a"), SLEEP)
        with pytest.raises(NotOffered, match="does not offer ExecAs"):
            client.exec(box, CommandSpec(["id"], user="me"))
        connection = client._inner.connection
        reopening = connection.call(connection.runtime.ReopenContainerLog, pb.ReopenContainerLogRequest())
        with pytest.raises(NotOffered, match="does not offer ReopenContainerLog"):
            run(reopening)
    assert caplog.records == []


def test_a_command_over_streams_reads_and_writes_as_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sent = bytes(range(256)) * 2000
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        box = client.run_pod_container(PodSpec("a"), SLEEP)
        server.world.programs |= {
            "cat": FakeProgram(out=b".", err=b"!", code=4, cats=True),
            "true": FakeProgram(out=b"well"),
            "gone": FakeProgram(refusal="there is no gone"),
            "sleep 1": FakeProgram(code=None),
        }
        result = client.exec(box, ["cat"], input=sent)
        assert (result.code, result.out, result.err) == (4, sent + b".", b"!")
        assert client.exec(box, ["true"], input=sent).text == "well", "it reads nothing"
        with pytest.raises(RuntimeFailure, match=r"^there is no gone$"):
            client.exec(box, ["gone"], input=b"")
        with pytest.raises(TimedOut):
            client.exec(box, ["sleep", "1"], input=b"", timeout=0.1)
        server.exit(box.container.id)
        with pytest.raises(WrongState):
            client.exec(box, ["true"], input=b"")
    assert server.calls.count("Exec") == 6, "one of them was to be a WebSocket"
    assert caplog.records == []


async def test_who_is_attached_gets_what_is_written_until_the_end() -> None:
    with FakeServer() as server:
        async with Client(server.endpoint) as client:
            box = (await client.run_pod_container(PodSpec("a"), SLEEP)).container.id
            async with streams.attach(client.connection, box, StreamOptions(stdin=True)) as session:
                assert session.stdin is not None
                assert session.stdout is not None
                assert session.stderr is not None
                await session.stdin.write(b"given")
                await asyncio.to_thread(server.write, box, b"one\n")
                assert await session.stdout.read() == b"one\n"
                await asyncio.to_thread(server.write, box, b"two\n", stream="stderr")
                assert await session.stderr.read() == b"two\n"
                await until(lambda: bytes(server.world.inputs.get(box, b"")) == b"given")
                await asyncio.to_thread(server.exit, box, 3)
                assert await session.wait() == 0
            await until(lambda: not server.world.attached[box])


async def test_a_pods_ports_answer_as_they_are_told() -> None:
    with FakeServer() as server:
        server.world.ports[80] = bytes.upper
        async with Client(server.endpoint) as client:
            pod = await client.run_pod(PodSpec("a"))
            async with client.forward(pod, 80) as (host, port):
                reader, writer = await asyncio.open_connection(host, port)
                for sent in (b"one", b"two"):
                    writer.write(sent)
                    assert await reader.readexactly(3) == sent.upper()
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            async with streams.forward(client.connection, pod.id, Target("tcp", 81)) as refused:
                with pytest.raises(RuntimeFailure, match=r"^nothing listens on port 81$"):
                    await refused.read()
            with pytest.raises(NotFound):
                await streams.forward_url(client.connection, "0" * 64, [Target("tcp", 80)])


async def test_streams_end_with_the_server() -> None:
    with FakeServer() as server:
        async with Client(server.endpoint, patience=0) as client:
            box = (await client.run_pod_container(PodSpec("a"), SLEEP)).container.id
            async with streams.attach(client.connection, box) as session:
                await asyncio.to_thread(server.stop)
                with pytest.raises(ClientError):
                    await session.wait()


async def test_an_asyncio_program_is_served_as_well() -> None:
    with FakeServer() as server:
        async with Client(server.endpoint) as client:
            assert (await client.status()).ready
    assert not os.path.exists(server.endpoint.removeprefix("unix://"))


TESTS = """
def test_scripted(cri_server, cri_client):
    cri_server.world.name = "scripted"
    assert cri_client.status().name == "scripted"

def test_either(cri_endpoint, cri_client):
    assert cri_client.status().name == "{name}"
"""


@pytest.mark.parametrize("real", [False, True])
def test_pytest_finds_the_fixtures(tmp_path: Path, *, real: bool) -> None:
    with FakeServer() as server:
        server.world.name = "elsewhere" if real else "fake"
        (tmp_path / "test_it.py").write_text(TESTS.format(name=server.world.name))
        environment = {name: value for name, value in os.environ.items() if name != "CRIB_ENDPOINT"}
        environment |= {"PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        if real:
            environment["CRIB_ENDPOINT"] = server.endpoint
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "crib.testing.plugin", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert "2 passed" in done.stdout, done.stdout


def test_the_entry_point_leads_to_the_plugin() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"crib": "crib.testing.plugin"}


def test_the_plugin_is_cheap_to_load() -> None:
    """Every run of pytest loads it where crib is installed."""
    code = "import sys, crib.testing.plugin; print({'grpc', 'google'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert said == "set()\n"
