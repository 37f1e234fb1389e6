"""Runtimes whose pods have a kernel of their own: all is asked of the shim, and nothing of this host."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.known_processes import is_alive
from crib.backends.shim.processes import shims_of
from crib.model.errors import InvalidRequest, Unavailable
from crib.model.sandbox import NetworkAttachment, Resources
from crib.model.streams import PodAddress
from tests.contract.handler_lab import HandlerLab
from tests.fakes import shim_program
from tests.fakes.world import bounded
from tests.system.labs.shim_setup import ShimLab, shim_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

EVERY_KIND = [
    {"answer": "json", "groups": True, "service": False},
    {"answer": "plain", "groups": False, "service": False},
    {"answer": "json", "groups": True, "service": True},
]


@pytest.fixture(params=EVERY_KIND, ids=["one for a pod", "one for each", "with sandbox service"])
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "mode"
    made.write_text(json.dumps(request.param))
    program = tmp_path / "containerd-shim-kata-v2"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {shim_program.__file__} {made} "$@"\n')
    program.chmod(0o755)
    return made


@pytest.fixture
async def real(mode: Path) -> AsyncIterator[ShimLab]:
    async with shim_lab({"ConfigPath": "/x"}, "kata", str(mode.parent / "containerd-shim-kata-v2")) as made:
        yield made


@pytest.fixture
async def lab(real: ShimLab) -> AsyncIterator[HandlerLab]:
    made = HandlerLab(real.handler, real.logs)
    yield made
    await made.close()


def calls(mode: Path) -> list[str]:
    """What shims were asked, without whom it was about."""
    return [line.split()[0] for line in Path(f"{mode}.calls").read_text().splitlines()]


def shims(real: ShimLab) -> set[str]:
    return {instance for instance, _ in shims_of(real.handler.tools.environment.program)}


async def test_a_containers_life_is_its_shims_word(real: ShimLab, lab: HandlerLab, mode: Path) -> None:
    options = json.loads(mode.read_text())
    pod = await lab.pod()
    assert pod.infra is not None, "such a pod begins with a container, or by the sandbox service"
    record = await lab.running(pod)
    assert record.process is None
    assert shims(real) == ({pod.id} if options["groups"] else {pod.id, record.id})
    seen = await lab.handler.containers.observe(record)
    assert (seen.status, seen.exit) == ("running", None)
    [usage] = await lab.handler.statistics.containers([(record, pod)])
    assert usage.cgroup.cpu is not None
    assert usage.cgroup.cpu.usage == 7000
    await lab.handler.containers.update(record, Resources(cpu_shares=7))
    await lab.handler.containers.signal(record, signal.SIGTERM)
    assert (await lab.exit_of(record)).code == 143
    async with bounded():
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)
    with open(record.log_path, "rb") as log:  # noqa: ASYNC230  # it is on a tmpfs
        assert log.read().endswith(b"stdout F from inside\n")
    asked = calls(mode)
    assert "Update" in asked
    assert ("StartSandbox" in asked) == options["service"]
    assert asked.count("Create") == (1 if options["service"] else 2)
    assert "delete" not in asked, "the shim's program has nothing to clear up after an orderly end"
    assert shims(real) == set()
    assert not is_alive(pod.infra)


async def test_with_its_shim_a_pod_is_lost_and_its_containers_end(
    real: ShimLab, lab: HandlerLab, mode: Path
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    for _, process in shims_of(real.handler.tools.environment.program):
        os.kill(process.pid, signal.SIGKILL)
    told = await lab.exit_of(record)
    assert (told.code, told.lost) == (137, True)
    async with bounded():
        assert not await lab.handler.pods.alive(pod)
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)
    asked = [line for line in Path(f"{mode}.calls").read_text().splitlines() if line.startswith("delete")]
    assert f"delete {pod.id}" in asked, "the shim's program was not asked to clear up"
    assert len(set(asked)) == len(asked), "nor more than once"


async def test_a_port_is_forwarded_to_the_pods_address_where_its_kernel_listens(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    with socket.create_server(("127.0.0.1", 0)) as server:  # the test's own host is that kernel here
        address = PodAddress("tcp", server.getsockname()[1])
        there = replace(pod, network=NetworkAttachment(interface="eth0", addresses=("127.0.0.1",)))
        async with bounded():
            stream = await lab.handler.streams.dial(there, (), address)
            peer, _ = server.accept()
            peer.sendall(b"hello")
            peer.close()
            assert await stream.read() == b"hello"
            stream.abort()
    async with bounded():
        for record, tried in ((there, "127.0.0.1: Connection refused"), (pod, "Network is unreachable")):
            with pytest.raises(Unavailable, match=rf"{tried}.*v2 9\.9 cannot connect to the pod's loopback"):
                await lab.handler.streams.dial(record, (), address)
        await lab.handler.pods.remove(pod)


async def test_a_port_is_forwarded_to_the_pods_namespace_where_its_kernel_uses_that(
    real: ShimLab, lab: HandlerLab
) -> None:
    pod = await lab.pod()
    async with bounded(), lab.echoing(pod) as address:
        stream = await lab.handler.streams.dial(pod, (), address)
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        stream.abort()
    await lab.handler.pods.remove(pod)


@pytest.mark.parametrize("address", [PodAddress("udp", 53), PodAddress("unix", path="/s", container="app")])
async def test_nothing_but_tcp_is_forwarded_there(
    real: ShimLab, lab: HandlerLab, address: PodAddress
) -> None:
    pod = await lab.pod()
    with pytest.raises(InvalidRequest, match="handler kata runs pods on a kernel of their own, which is rea"):
        await lab.handler.streams.dial(pod, (), address)
    await lab.handler.pods.remove(pod)


async def test_the_next_daemon_asks_the_shim(real: ShimLab, lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    await lab.close()
    again = HandlerLab(await real.again(), real.logs)
    async with bounded():
        seen = await again.handler.containers.observe(record)
        assert (seen.status, seen.exit) == ("running", None)
        await again.handler.containers.signal(record, signal.SIGKILL, everyone=True)
        assert (await again.exit_of(record)).code == 137
        await again.handler.containers.delete(record)
        await again.handler.pods.remove(pod)
    await again.close()
