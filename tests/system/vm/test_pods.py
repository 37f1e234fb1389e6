"""cribd whose pods are virtual machines: they live, are looked into, killed and told of, and nothing is left.

Under emulation a machine takes seconds to come up. So one story is for every day, and it has the most common
calls; the others are nightly.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import pods, streams
from crib.client.errors import ClientError, RuntimeFailure
from crib.client.pods import Pod
from crib.client.streams import StreamOptions
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire.portforward import Target
from tests.images import busybox_image
from tests.system.labs.daemon import IMAGE, Cri, Cribd, crib, log_contents, page, running_cribd, until
from tests.system.labs.stream_lab import finish, seen
from tests.system.labs.vm_guest import BUILD, BUILD_SECONDS, guest_kernel
from tests.system.labs.vm_pods import VM_SECONDS, default_vm, processes_of_pod

pytestmark = [pytest.mark.root, pytest.mark.system]

MIB = 1 << 20
EXAMPLE = Path(__file__).parents[3] / "examples" / "web.yaml"
SERVER = "httpd -p 127.0.0.1:8080 -h /; httpd -p 8081 -h /; echo ready; exec sleep 1000"


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    """Each story has its own: what is started anew is a new process, and it would count as left behind."""
    with running_cribd(
        extra=default_vm(disk=32 * MIB), built=[busybox_image(name=IMAGE)], warm=False
    ) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.connect(VM_SECONDS) as connection:
        yield connection
        for sandbox in await connection.sandboxes():
            await connection.remove_pod(sandbox)


async def machine(cri: Cri, name: str = "pod", **fields: object) -> Pod:
    """A pod with an empty machine."""
    return await cri.run_pod(name, **fields)


async def is_ready(cri: Cri, pod: Pod) -> bool:
    return (await cri.pod_status(pod)).state == pb.SANDBOX_READY


async def stage_names(cri: Cri, pod: Pod) -> list[str]:
    told = await cri.call(cri.node.Timeline, node_pb2.TimelineRequest(pod=pod.id))
    return [stage.name for stage in told.stages]


async def test_a_pod_is_a_machine_and_leaves_nothing(cri: Cri, cribd: Cribd) -> None:
    pod = await machine(cri)
    box = await cri.run_container(pod, "sh", "-c", "echo hello; echo oh >&2; exec sleep 1000")
    kernel = await cri.sh(box, "dd if=/dev/zero of=/written bs=1M count=3 2>/dev/null; uname -r")
    assert kernel != platform.release()
    assert await cri.sh(box, "hostname; cat /etc/hostname") == "pod\npod"
    assert (await cri.execute(box, "sh", "-c", "exit 7")).code == 7
    usage = (await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=box))).stats
    assert usage.cpu.usage_core_nano_seconds.value > 0
    assert 0 < usage.memory.usage_bytes.value < 256 * MIB
    layer = usage.writable_layer
    assert 3 * MIB < layer.used_bytes.value < 4 * MIB
    assert 1 < layer.inodes_used.value < 20
    assert (await cri.execute(box, "dd", "if=/dev/zero", "of=/more", "bs=1M", "count=40")).code == 1
    there = processes_of_pod(cribd, pod)
    assert {"shim", "qemu-system-x86_64", "virtiofsd"} <= there.keys()
    names = await stage_names(cri, pod)
    assert [one for one in names if one in ("virtiofsd", "qemu", "kernel", "init", "agent", "configure")] == [
        *("virtiofsd", "qemu", "kernel", "init", "agent", "configure")
    ]
    await cri.stop_container(box)
    status = await cri.status(box)
    assert status.exit_code == 137
    assert log_contents(status.log_path) == {"stdout": b"hello\n", "stderr": b"oh\n"}
    await cri.remove_pod(pod)
    assert processes_of_pod(cribd, pod) == {}


@pytest.mark.nightly
async def test_streams_and_ports_lead_into_the_machine(cri: Cri, cribd: Cribd) -> None:
    mapping = pb.PortMapping(container_port=8081, host_port=18000 + os.getpid() % 10000, host_ip="127.0.0.1")
    pod = await machine(cri, port_mappings=[mapping])
    box = await cri.run_container(pod, "sh", "-c", f"echo pod >/hostname; {SERVER}", stdin=True, tty=False)
    path = cribd.logs / "pod" / "box.log"
    await until(lambda: b"ready" in log_contents(path)["stdout"], VM_SECONDS)
    address = (await cri.pod_status(pod)).network.ip
    assert await page(address, 8081) == "pod"
    assert await page("127.0.0.1", mapping.host_port) == "pod"
    assert await page(address, 8080) == "", "the loopback of the machine is its own"
    for port in (8080, 8081):
        async with streams.forward(cri.connection, pod.id, Target("tcp", port)) as peer:
            await peer.write(b"GET /hostname HTTP/1.0\r\n\r\n")
            said = b""
            while data := await peer.read():
                said += data
            assert said.endswith(b"pod\n"), port
    async with streams.forward(cri.connection, pod.id, Target("tcp", 9)) as peer:
        with pytest.raises(RuntimeFailure, match="refused"):
            await peer.read()
    options = StreamOptions(tty=True, stdin=True)
    async with streams.exec(cri.connection, box, ["sh"], options) as session:
        await session.resize(123, 45)
        assert session.stdin is not None
        await session.stdin.write(b"stty size; exit 3\n")
        outcome = await finish(session)
    assert outcome.code == 3
    assert b"45 123" in outcome.out
    echo = await cri.run_container(pod, "cat", name="echo", stdin=True)
    async with streams.attach(cri.connection, echo, StreamOptions(stdin=True)) as session:
        assert session.stdin is not None
        await session.stdin.write(b"over and out\n")
        assert b"over and out\n" in await seen(session.stdout, b"out\n")


@pytest.mark.nightly
async def test_machines_outlive_the_daemon(cri: Cri, cribd: Cribd) -> None:
    pod = await machine(cri)
    lasting = await cri.run_container(pod, "sh", "-c", "echo before; exec sleep 1000", name="lasting")
    gate = cribd.root / "gate"
    gate.mkdir()
    mount = pb.Mount(container_path="/gate", host_path=str(gate))
    waiting = "until [ -e /gate/go ]; do sleep 0.1; done; echo gone; exit 5"
    ending = await cri.run_container(pod, "sh", "-c", waiting, name="ending", mounts=[mount])
    before = processes_of_pod(cribd, pod)
    cribd.kill()
    (gate / "go").touch()
    cribd.start()
    async with cribd.connect(VM_SECONDS) as after:
        ended = await after.exited(ending, VM_SECONDS)
        assert ended.exit_code == 5
        assert await is_ready(after, pod)
        assert processes_of_pod(cribd, pod) == before
        assert await after.sh(lasting, "echo again") == "again"
        await until(lambda: log_contents(ended.log_path)["stdout"] == b"gone\n", VM_SECONDS)
        await after.remove_pod(pod)
    assert processes_of_pod(cribd, pod) == {}


@pytest.mark.nightly
@pytest.mark.parametrize("victim", ["qemu-system-x86_64", "virtiofsd", "shim"])
async def test_a_machine_that_is_killed_is_a_lost_pod(cri: Cri, cribd: Cribd, victim: str) -> None:
    pod = await machine(cri)
    box = await cri.run_container(pod, "sleep", "1000")
    for pid in processes_of_pod(cribd, pod)[victim]:
        os.kill(pid, signal.SIGKILL)
    assert (await cri.exited(box, VM_SECONDS)).exit_code == 137

    async def is_lost() -> bool:
        return not await is_ready(cri, pod)

    await until(is_lost, VM_SECONDS)
    with pytest.raises(ClientError, match=r"not.ready"):
        await cri.create(pod, "true", name="more")
    await cri.remove_pod(pod)
    assert processes_of_pod(cribd, pod) == {}


@pytest.mark.nightly
async def test_a_machine_has_the_size_that_its_pod_asks_for_and_limits_inside(cri: Cri) -> None:
    config = cri.pod_config("sized")
    config.linux.resources.CopyFrom(
        pb.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_period=100_000, cpu_quota=150_000)
    )
    pod = await pods.run_sandbox(cri.connection, config)
    limits = pb.LinuxContainerResources(
        memory_limit_in_bytes=32 * MIB, cpu_period=100_000, cpu_quota=50_000, cpu_shares=512
    )
    box = await cri.run_container(pod, "sleep", "1000", resources=limits)
    assert await cri.sh(box, "grep -c ^processor /proc/cpuinfo") == str(min(2, os.cpu_count() or 1))
    total = int(await cri.sh(box, "awk '/MemTotal/ {print $2}' /proc/meminfo")) << 10
    assert 64 * MIB < total < 160 * MIB
    files = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"
    assert await cri.sh(box, files) == f"{32 * MIB}\n50000 100000"
    smaller = pb.LinuxContainerResources(memory_limit_in_bytes=48 * MIB, cpu_period=100_000, cpu_quota=20_000)
    change = pb.UpdateContainerResourcesRequest(container_id=box, linux=smaller)
    await cri.call(cri.runtime.UpdateContainerResources, change)
    assert await cri.sh(box, files) == f"{48 * MIB}\n20000 100000"
    change.linux.memory_limit_in_bytes = 65 * MIB
    with pytest.raises(ClientError, match=r"memory_limit_in_bytes.*64 MiB for its containers"):
        await cri.call(cri.runtime.UpdateContainerResources, change)
    usage = (
        await cri.call(cri.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=pod.id))
    ).stats.linux
    assert usage.memory.usage_bytes.value > total // 4, "the pod's figures are those of its cgroup here"
    assert usage.network.default_interface.name == "eth0"
    assert [one.name for one in usage.network.interfaces] == [], (
        "what is beside it is no interface of the pod"
    )


@pytest.mark.nightly
async def test_memory_that_runs_out_in_the_machine_is_told(cri: Cri) -> None:
    pod = await machine(cri)
    # Not /dev/zero: emulation is slow, and what has to be filled is small
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=8 * MIB)
    script = "x=0123456789abcdef; while :; do x=$x$x; done"
    box = await cri.run_container(pod, "sh", "-c", script, resources=limits)
    ended = await cri.exited(box, VM_SECONDS)
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    again = await cri.run_container(pod, "echo", "still here", name="again")
    assert (await cri.exited(again, VM_SECONDS)).exit_code == 0


@pytest.mark.nightly
async def test_volumes_of_the_host_are_seen_and_change(cri: Cri, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    mounts = [
        pb.Mount(container_path="/rw", host_path=str(tmp_path)),
        pb.Mount(container_path="/ro", host_path=str(tmp_path), readonly=True),
        pb.Mount(container_path="/etc/one", host_path=str(tmp_path / "file")),
    ]
    pod = await machine(cri, namespaces=pb.NamespaceOption(pid=pb.POD))
    shared = pb.NamespaceOption(pid=pb.POD)
    box = await cri.run_container(pod, "sleep", "1000", mounts=mounts, namespaces=shared)
    assert await cri.sh(box, "cat /rw/file /ro/file /etc/one") == "oneoneone"
    await cri.sh(box, "echo two >/rw/new && mkdir /rw/made && ln -s new /rw/link")
    assert (tmp_path / "new").read_text() == "two\n"
    assert os.readlink(tmp_path / "link") == "new"
    assert (await cri.execute(box, "touch", "/ro/never")).code == 1
    (tmp_path / "file").write_text("three")

    async def is_seen() -> bool:
        return await cri.sh(box, "cat /rw/file") == "three"

    await until(is_seen, VM_SECONDS)
    other = await cri.run_container(pod, "sleep", "1000", name="other", namespaces=shared)
    assert "sleep" in await cri.sh(other, "cat /proc/[0-9]*/comm | sort | uniq -c | sort -n | tail -1")
    assert (await cri.sh(other, "ps | grep -c '[s]leep 1000'")) == "2", "pids are the pod's"


@pytest.mark.nightly
async def test_what_no_machine_gives_is_refused_by_name(cri: Cri) -> None:
    node = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
    with pytest.raises(ClientError, match=r"namespace_options\.network.*cannot be in the node's network"):
        await cri.run_pod("host", namespaces=node)
    for kind, namespaces in (
        ("pid", pb.NamespaceOption(pid=pb.NODE)),
        ("ipc", pb.NamespaceOption(pid=pb.CONTAINER, ipc=pb.NODE)),
    ):
        with pytest.raises(ClientError, match=rf"namespace_options\.{kind}.*kernel of their own"):
            await cri.run_pod("host", namespaces=namespaces)
    pod = await machine(cri)
    device = pb.Device(container_path="/dev/fuse", host_path="/dev/fuse", permissions="rw")
    with pytest.raises(ClientError, match=r"devices\[0\]\.host_path.*has no /dev/fuse of the host"):
        await cri.create(pod, "true", devices=[device])
    shared = pb.Mount(container_path="/s", host_path="/tmp", propagation=pb.PROPAGATION_BIDIRECTIONAL)
    with pytest.raises(ClientError, match=r"mounts\[0\]\.propagation"):
        await cri.create(pod, "true", mounts=[shared])
    with pytest.raises(ClientError, match="cpuset_cpus"):
        await cri.create(pod, "true", resources=pb.LinuxContainerResources(cpuset_cpus="0"))
    box = await cri.run_container(pod, "sleep", "1000", name="lasting")
    archive = pb.CheckpointContainerRequest(container_id=box, location="/tmp/never.tar")
    with pytest.raises(ClientError, match="handler vm of kind vm makes no checkpoints"):
        await cri.call(cri.runtime.CheckpointContainer, archive)
    assert (await cri.exited(await cri.run_container(pod, "true"), VM_SECONDS)).exit_code == 0


def build_guest(directory: Path, *words: str) -> None:
    command = [sys.executable, *BUILD, "--output", str(directory), "--kernel", str(guest_kernel()), *words]
    subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)


@pytest.mark.nightly
async def test_modules_that_the_guest_was_built_with_are_loaded(tmp_path: Path) -> None:
    await asyncio.to_thread(build_guest, tmp_path, "--module", "bridge")
    table = default_vm(guest=f'"{tmp_path}"')
    with running_cribd(extra=table, built=[busybox_image(name=IMAGE)], warm=False) as daemon:
        async with daemon.connect(VM_SECONDS) as cri:
            box = await cri.run_container(await machine(cri), "sleep", "1000")
            loaded = {line.split()[0] for line in (await cri.sh(box, "cat /proc/modules")).splitlines()}
            assert {"bridge", "stp"} <= loaded
            for sandbox in await cri.sandboxes():
                await cri.remove_pod(sandbox)


@pytest.mark.nightly
async def test_the_example_of_a_web_server_runs_in_a_machine(cri: Cri, cribd: Cribd, tmp_path: Path) -> None:
    cribd.import_images(busybox_image(name="localhost/demo:latest"))
    port = 18000 + os.getpid() % 10000
    manifest = tmp_path / "web.yaml"
    manifest.write_text(EXAMPLE.read_text().replace("hostPort: 8088", f"hostPort: {port}"))
    done = crib(cribd, tmp_path / "pods", "run", str(manifest))
    assert done.returncode == 0, done.stderr
    words = ("logs", "web", "-c", "page")
    hello = crib(cribd, tmp_path / "pods", *words).stdout
    assert hello.startswith("Hello from web, at ")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.read()).endswith(hello.encode())
    writer.close()

    def visitors() -> str:
        return crib(cribd, tmp_path / "pods", "logs", "web", "-c", "visitor").stdout

    await until(lambda: hello in visitors(), VM_SECONDS)
    assert crib(cribd, tmp_path / "pods", "exec", "web", "-c", "server", "--", "ls", "/www").stdout == (
        "index.html\n"
    )
    done = crib(cribd, tmp_path / "pods", "check")
    assert "nothing is wrong" in done.stdout, done.stdout
    done = crib(cribd, tmp_path / "pods", "rm", "--force", "web")
    assert done.returncode == 0, done.stderr
