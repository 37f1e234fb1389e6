"""Pods on gVisor at the real daemon: commands, logs, figures, ports, restarts, and a network inside."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from crib.client import pods, streams
from crib.client.errors import ClientError
from crib.stubs.node.v1 import node_pb2 as node_pb
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire.portforward import Target
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("runsc") is None, reason="gVisor's runsc is not installed"),
]

HANDLERS = """
[handlers.crun]
[handlers.gvisor]
path = "runsc"
args = ["--network=host"]
[handlers.inside]
path = "{inside}"
"""
# What the runsc of 2022 takes for a sign of the node's network namespace is in every one since Linux 6.8.
INSIDE = """#!/bin/sh
exec unshare --mount sh -c 'mount -t tmpfs none /proc/sys/net && exec runsc "$@"' runsc "$@"
"""
SERVER = ("busybox", "nc", "-ll", "-p", "7777", "-e", "echo", "hello")


@contextlib.contextmanager
def gvisor_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cribd]:
    inside = tmp_path_factory.mktemp("gvisor") / "runsc"
    inside.write_text(INSIDE)
    inside.chmod(0o755)
    with running_cribd() as daemon:
        daemon.stop()
        with daemon.config.open("a") as file:
            file.write(HANDLERS.format(inside=inside))
        daemon.start()
        yield daemon


@pytest.fixture(scope="module")
def cribd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cribd]:
    with gvisor_node(tmp_path_factory) as daemon:
        yield daemon


@pytest.fixture
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cribd]:
    """One that is killed in the test."""
    with gvisor_node(tmp_path_factory) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def run_pod(cri: Cri, name: str, handler: str = "gvisor", **fields: object) -> pods.Pod:
    return await pods.run_sandbox(cri.connection, cri.pod_config(name, **fields), handler)


async def answer_of(cri: Cri, pod: pods.Pod, port: int) -> bytes:
    """What the pod's server says to a forwarded connection; it may not listen yet."""
    async with asyncio.timeout(60):
        while True:
            async with streams.forward(cri.connection, pod.id, Target("tcp", port)) as connection:
                received = b""
                try:
                    while data := await connection.read():
                        received += data
                except ClientError:
                    await asyncio.sleep(0.05)  # a server that begins to listen gives no notice
                    continue
                return received


async def test_a_pod_lives_on_a_kernel_of_its_own_from_its_start_to_its_end(cri: Cri, cribd: Cribd) -> None:
    pod = await run_pod(cri, "whole")
    box = await cri.run_container(pod, "sh", "-c", "echo said; exec sleep 1000")
    assert await cri.sh(box, "hostname") == "whole"
    told = {one.name: one for one in (await cri.call(cri.node.Info, node_pb.InfoRequest())).handlers}
    assert set(told["gvisor"].can) == {"exec", "attach", "a sandbox container", "a kernel of their own"}
    assert told["gvisor"].statistics == "runtime"
    assert "the network in that kernel" in told["inside"].can
    assert (await cri.execute(box, "sh", "-c", "exit 9")).code == 9
    log = cribd.logs / "whole" / "box.log"
    await until(lambda: log.exists() and "said" in log.read_text())
    usage = await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=box))
    assert usage.stats.cpu.usage_core_nano_seconds.value > 0
    assert usage.stats.memory.usage_bytes.value > 0
    of_pod = await cri.call(cri.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=pod.id))
    assert of_pod.stats.linux.memory.usage_bytes.value > usage.stats.memory.usage_bytes.value
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=256 << 20)
    request = pb.UpdateContainerResourcesRequest(container_id=box, linux=limits)
    await cri.call(cri.runtime.UpdateContainerResources, request)
    await cri.stop_container(box, grace=0)
    assert (await cri.status(box)).exit_code == 137
    await cri.remove_container(box)
    await cri.remove_pod(pod)


async def test_containers_outlive_the_daemon_and_what_ended_meanwhile_is_told(mortal: Cribd) -> None:
    async with mortal.connect() as cri:
        pod = await run_pod(cri, "restart")
        stays = await cri.run_container(pod, "sleep", "1000", name="stays")
        ends = await cri.run_container(pod, "sh", "-c", "sleep 1; exit 5", name="ends")
        waits = await cri.create(pod, "sh", "-c", "exit 6", name="waits")
        server = await run_pod(cri, "server", "inside")
        await cri.run_container(server, *SERVER)
    mortal.kill()
    mortal.start()
    async with mortal.connect() as again:
        assert (await again.exited(ends)).exit_code == 5
        assert (await again.status(stays)).state == pb.CONTAINER_RUNNING
        assert (await again.status(waits)).state == pb.CONTAINER_CREATED
        await again.start(waits)
        assert (await again.exited(waits)).exit_code == 6
        assert await again.sh(stays, "echo lives") == "lives"
        assert await answer_of(again, server, 7777) == b"hello\n"
        async for check in again.node.CheckNetworks(node_pb.CheckNetworksRequest(repair=True)):
            assert not check.problem
        assert await answer_of(again, server, 7777) == b"hello\n"
        await again.stop_container(stays, grace=0)
        await again.remove_pod(pod)
        await again.remove_pod(server)


@pytest.mark.parametrize("handler", ["gvisor", "inside"])
async def test_a_server_in_the_pod_is_reached_by_its_address_and_by_a_forwarded_port(
    cri: Cri, handler: str
) -> None:
    pod = await run_pod(cri, f"server-{handler}", handler)
    await cri.run_container(pod, *SERVER)
    assert await answer_of(cri, pod, 7777) == b"hello\n"
    address = (await cri.pod_status(pod)).network.ip
    reader, writer = await asyncio.open_connection(address, 7777)
    assert await reader.read() == b"hello\n"
    writer.close()
    await cri.remove_pod(pod)


async def whole_life(cribd: Cribd, name: str) -> None:
    async with cribd.connect() as cri:
        pod = await run_pod(cri, name)
        box = await cri.run_container(pod, "sleep", "1000")
        await cri.execute(box, "true")
        await cri.stop_container(box)
        await cri.remove_pod(pod)


@pytest.mark.nightly
@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.6, 0.8, 1.0, 1.2, 1.4])
async def test_a_daemon_that_is_killed_at_any_moment_leaves_nothing(mortal: Cribd, seconds: float) -> None:
    life = asyncio.ensure_future(whole_life(mortal, "killed"))
    await asyncio.sleep(seconds)  # to another moment; the test holds for every one
    mortal.kill()
    with contextlib.suppress(ClientError):
        await life
    mortal.start()
    async with mortal.connect() as cri:
        for pod in await cri.sandboxes():
            await cri.remove_pod(pod)
        assert not await cri.containers()
