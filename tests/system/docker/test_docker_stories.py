"""cribd with a handler by Docker's Engine: pods live, daemons are killed, all is wiped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.backends.known_processes import identity, is_alive
from crib.client import pods
from crib.client.errors import ClientError
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image
from tests.system.labs.daemon import (
    Cri,
    Cribd,
    crib,
    default_docker,
    log_contents,
    running_cribd,
    until,
)
from tests.system.labs.docker_engine import Engine, docker_engine

pytestmark = [pytest.mark.root, pytest.mark.system]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def cribd(engine: Engine) -> Iterator[Cribd]:
    with running_cribd(extra=default_docker(engine.socket)) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd, engine: Engine) -> AsyncIterator[Cri]:
    before = engine.count()
    async with cribd.story() as connection:
        yield connection
    assert_no_more(engine, before)


async def test_a_pod_lives_by_the_engine(cri: Cri, engine: Engine) -> None:
    pod = await cri.run_pod("pod")
    box = await cri.run_container(pod, "sh", "-c", "echo hello; echo oops >&2; sleep 1000")
    assert await cri.sh(box, "echo inside") == "inside"
    assert (await cri.execute(box, "sh", "-c", "exit 7")).code == 7
    status = await cri.status(box)
    assert status.state == pb.CONTAINER_RUNNING
    names = [one["Names"][0] for one in json.loads(engine.ask("GET", "/containers/json"))]
    assert sorted(names) == sorted([f"/crib-{pod.id}", f"/crib-{box}"])
    await cri.stop_container(box)
    assert (await cri.status(box)).exit_code == 137
    assert log_contents(status.log_path) == {"stdout": b"hello\n", "stderr": b"oops\n"}
    await cri.remove_pod(pod)


async def test_containers_of_a_pod_share_what_a_pod_has(cri: Cri) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    pod = await cri.run_pod("shared", namespaces=shared, sysctls={"net.ipv4.ip_unprivileged_port_start": "7"})
    one = await cri.run_container(pod, "sleep", "1000", namespaces=shared)
    two = await cri.run_container(pod, "sleep", "1000", name="two", namespaces=shared)
    assert "catatonit" in await cri.sh(one, "cat /proc/1/comm")
    assert await cri.sh(one, "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "shared\n7"
    await cri.sh(one, "echo shared > /dev/shm/x; cat /etc/hosts")
    assert await cri.sh(two, "cat /dev/shm/x") == "shared"
    places = [
        await cri.sh(box, "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc") for box in (one, two)
    ]
    assert places[0] == places[1]
    assert (await cri.pod_status(pod)).network.ip in await cri.sh(one, "ip addr")
    await cri.remove_pod(pod)


async def test_limits_are_in_force_and_change(cri: Cri) -> None:
    pod = await cri.run_pod("limits")
    box = await cri.run_container(
        pod,
        "sleep",
        "1000",
        resources=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512),
    )

    async def limit() -> str:
        return await cri.sh(
            box,
            "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true",
        )

    assert await limit() == str(64 << 20)
    await cri.call(
        cri.runtime.UpdateContainerResources,
        pb.UpdateContainerResourcesRequest(
            container_id=box, linux=pb.LinuxContainerResources(memory_limit_in_bytes=96 << 20)
        ),
    )
    assert await limit() == str(96 << 20)
    stats = await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=box))
    assert stats.stats.memory.working_set_bytes.value > 0
    await cri.sh(box, "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null")
    await cri.remove_pod(pod)


async def test_what_the_engine_cannot_do_is_refused_by_name(cri: Cri, engine: Engine) -> None:
    pod = await cri.run_pod("refused")
    config = cri.container_config("true")
    config.linux.security_context.capabilities.add_ambient_capabilities.append("NET_RAW")
    with pytest.raises(ClientError, match="add_ambient_capabilities: Docker's Engine cannot do this"):
        await pods.create_container(cri.connection, pod, config)
    await cri.remove_pod(pod)


@pytest.mark.nightly
async def test_an_exit_and_output_while_there_is_no_daemon_are_told(engine: Engine) -> None:
    with running_cribd(extra=default_docker(engine.socket)) as own:
        async with own.connect() as cri:
            pod = await cri.run_pod("pod")
            box = await cri.run_container(pod, "sh", "-c", UNTIL_TOLD)
            path = (await cri.status(box)).log_path

            def lines() -> list[bytes]:
                return log_contents(path)["stdout"].splitlines()

            await until(lambda: len(lines()) > 10)
            first = first_pid(own, box)
            own.kill()
            before = len(lines())
            Path(f"/proc/{first}/root/go").touch()
            process = identity(first)
            await until(lambda: process is None or not is_alive(process))
            own.start()
        async with own.connect() as cri:
            assert (await cri.exited(box)).exit_code == 3
            # The Engine may be slow to hand the rest over, which is copied on after the exit is told.
            await until(lambda: lines()[-1:] == [b"over"])
            assert lines()[:-1] == numbered(len(lines()) - 1)
            assert len(lines()) > before, "what it said while nobody listened"
            await cri.remove_pod(pod)


async def test_a_handler_that_is_taken_out_looks_after_what_the_engine_has_of_it(engine: Engine) -> None:
    before = engine.count()
    with running_cribd(extra=default_docker(engine.socket), warm=False) as own:
        async with own.connect() as cri:
            pod = await cri.run_pod("pod")
            box = await cri.run_container(pod, "sh", "-c", UNTIL_TOLD)
        await asyncio.to_thread(own.stop)
        own.config.write_text(own.config.read_text().replace(default_docker(engine.socket), ""))
        await asyncio.to_thread(own.start)
        async with own.connect() as cri:
            assert await cri.sh(box, "echo inside; touch /go") == "inside"
            with pytest.raises(ClientError, match="no handler 'docker'"):
                await cri.create(pod, "true", name="more")
            assert (await cri.exited(box)).exit_code == 3
            path = (await cri.status(box)).log_path
            await until(lambda: log_contents(path)["stdout"].endswith(b"over\n"))
            *lines, _ = log_contents(path)["stdout"].splitlines()
            assert lines == numbered(len(lines))
            await cri.remove_pod(pod)
        await asyncio.to_thread(own.stop)
        await asyncio.to_thread(own.start)  # and it is forgotten
        await until(lambda: not (own.state / "shims" / "docker.json").exists())
        assert_no_more(engine, before)


@pytest.mark.nightly
async def test_a_wipe_ends_what_the_engine_has_of_a_handler_that_is_taken_out(engine: Engine) -> None:
    before = engine.count()
    with running_cribd(extra=default_docker(engine.socket), warm=False) as own:
        async with own.connect() as cri:
            await cri.run_container(await cri.run_pod("pod"), "sleep", "1000")
        await asyncio.to_thread(own.kill)
        own.config.write_text(own.config.read_text().replace(default_docker(engine.socket), ""))
        await asyncio.to_thread(own.wipe)
        assert_no_more(engine, before)
        await asyncio.to_thread(own.start)


UNTIL_TOLD = "n=0; until [ -e /go ]; do n=$((n+1)); echo line $n; sleep 0.01; done; echo over; exit 3"


def assert_no_more(engine: Engine, before: tuple[int, int]) -> None:
    """An image of an earlier test may go meanwhile."""
    containers, images = engine.count()
    assert containers == before[0]
    assert images <= before[1]


def numbered(count: int) -> list[bytes]:
    return [f"line {number + 1}".encode() for number in range(count)]


def first_pid(cribd: Cribd, container: str) -> int:
    return int((cribd.state / "containers" / container / "pidfile").read_text())


async def test_the_web_example_runs(cribd: Cribd, engine: Engine, tmp_path: Path) -> None:
    before = engine.count()
    cribd.import_images(busybox_image(name="localhost/demo:latest"))
    manifest = (ROOT / "examples" / "web.yaml").read_text().replace("hostPort: 8088, ", "")
    (tmp_path / "web.yaml").write_text(
        manifest.replace(", hostIP: 127.0.0.1", "").replace('value: "5"', 'value: "1"')
    )
    store = tmp_path / "pods"
    done = crib(cribd, store, "run", str(tmp_path / "web.yaml"))
    assert done.returncode == 0, done.stderr + cribd.log()[-3000:]
    page = crib(
        cribd, store, "exec", "web", "-c", "server", "--", "wget", "-q", "-O", "-", "http://127.0.0.1/"
    )
    assert page.stdout.startswith("Hello from web, at"), page.stderr

    def visited() -> bool:
        return "Hello from web" in crib(cribd, store, "logs", "web", "-c", "visitor").stdout

    await until(visited)
    assert crib(cribd, store, "rm", "--force", "web").returncode == 0
    # The layer of pods' own containers may be new: it stays until a wipe.
    assert engine.count() in (before, (before[0], 1))


@pytest.mark.nightly
async def test_an_engine_that_is_away_is_told_and_comes_back_by_itself(cribd: Cribd) -> None:
    """Its own daemon and Engine, which are killed in turn."""
    with docker_engine() as own, running_cribd(extra=default_docker(own.socket)) as daemon:
        async with daemon.connect() as cri:
            pod = await cri.run_pod("pod")
            box = await cri.run_container(
                pod, "sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done"
            )
            own.kill()
            with pytest.raises(ClientError, match="not to be reached"):
                await cri.run_pod("other")
            status = await cri.call(cri.runtime.Status, pb.StatusRequest())
            ready = {one.type: one for one in status.status.conditions}["RuntimeReady"]
            assert not ready.status
            assert "Engine" in ready.message
            daemon.kill()
            daemon.start()
        async with daemon.connect() as cri:
            assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
            own.start()
            path = (await cri.status(box)).log_path

            def grows() -> int:
                return len(log_contents(path)["stdout"])

            size = grows()
            await until(lambda: grows() > size + 100)
            assert await cri.sh(box, "echo back") == "back"
            await cri.stop_container(box)
            lines = log_contents(path)["stdout"].splitlines()
            assert lines == numbered(len(lines))
            await cri.remove_pod(pod)
        await asyncio.to_thread(daemon.stop)
        daemon.wipe()
        assert own.count() == (0, 0)
