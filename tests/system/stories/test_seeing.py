"""What a person sees of pods on a real node: what they use, what they keep, and why they have ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator

import pytest

from crib import __version__
from crib.backends.environment import POD_MEMORY
from crib.client import node
from crib.client.usage import UsageClient
from crib.host.cgroups import detect_layout
from crib.stubs.node.v1.node_pb2 import ContainerEnd
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.patience import PATIENCE
from tests.system.labs.daemon import Cri, Cribd, crib, first_pid, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

MIB = 1 << 20
SMALL = pb.LinuxContainerResources(memory_limit_in_bytes=16 * MIB, memory_swap_limit_in_bytes=16 * MIB)
GREEDY = ("sh", "-c", "tail -c 200000000 /dev/zero; sleep 600")


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as made:
        yield made


@pytest.fixture
def own() -> Iterator[Cribd]:
    """One that may be killed."""
    with running_cribd(warm=False) as made:
        yield made


SOON = int(60 * PATIENCE)
"""Seconds for a script to see what it waits for."""


async def the_end(cri: Cri, target: str, name: str = "") -> ContainerEnd:
    """Why the only container that is meant has ended."""
    (end,) = await node.ends(cri.connection, target, name)
    return end


async def command(cri: Cri, *words: str) -> str:
    done = await asyncio.to_thread(crib, cri.cribd, cri.cribd.root, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_usage_and_disk_are_told_of_every_pod(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("seen")
        script = "head -c 3000000 /dev/zero >/file; echo said; while :; do :; done"
        box = await cri.run_container(pod, "sh", "-c", script)
        await cri.sh(box, "until [ $(stat -c %s /file) -ge 3000000 ]; do sleep 0.01; done", timeout=SOON)
        (found,) = (await UsageClient(cri.connection).read()).pods
        assert (found.namespace, found.name, found.containers[0].name) == ("stories", "seen", "box")
        assert found.usage.cpu is not None
        assert found.usage.received is not None
        assert (found.usage.memory or 0) > 0
        has_pressure = detect_layout().mode == "v2" and os.path.exists("/proc/pressure/cpu")
        assert (found.usage.pressure.cpu is not None) == has_pressure
        top = json.loads(await command(cri, "top", "--json", "--interval", "0.5"))["pods"]
        assert top[0]["containers"][0]["cpuCores"] > 0
        use = await node.disk_usage(cri.connection)
        (container,) = [one for one in use.containers if one.container_id == box]
        assert container.writable_bytes >= 3_000_000
        assert container.log_bytes > 0
        assert [layer.containers for layer in use.layers] == [1]
        assert use.images[0].containers == 1
        assert sum(use.records.values()) > 0
        assert "stories/seen" in await command(cri, "df", "--verbose")
        assert "cpu.usage_core_nano_seconds" in await command(cri, "stats", "seen")


async def test_an_end_for_want_of_memory_is_told_with_the_limit_and_the_process(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("greedy")
        box = await cri.run_container(pod, *GREEDY, resources=SMALL)
        await cri.sh(box, "until ! pidof tail; do sleep 0.01; done", timeout=SOON)
        await cri.stop_container(box, grace=0)
        end = await the_end(cri, "greedy")
        assert (end.cause, end.reason, end.oom.level) == ("oom", "OOMKilled", "container")
        assert end.oom.cgroup.endswith(box)
        assert end.oom.limit_bytes == 16 * MIB
        if end.oom.logged:  # a kernel that has to log too many kills leaves some out
            assert (end.oom.process, end.oom.pid > 0) == ("tail", True)
        assert (end.stop.call, end.stop.killed) == ("StopContainer", True)


async def test_the_limit_of_a_pod_is_told_apart_from_that_of_a_container(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("crowded")
        request = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod.id, resources=SMALL)
        await cri.call(cri.runtime.UpdatePodSandboxResources, request)
        box = await cri.run_container(pod, "sh", "-c", "exec tail -c 200000000 /dev/zero")
        assert (await cri.exited(box)).reason == "OOMKilled"
        end = await the_end(cri, box)
        assert (end.cause, end.signal, end.oom.level) == ("oom", 9, "pod")
        assert end.oom.cgroup.endswith(pod.id)
        assert (end.oom.limit_bytes, end.HasField("stop")) == (16 * MIB + POD_MEMORY, False)


async def test_who_asked_for_an_end_is_told_after_a_removal_and_a_restart_too(own: Cribd) -> None:
    async with own.connect() as cri:
        pod = await cri.run_pod("asked")
        patient = await cri.run_container(pod, "sh", "-c", "trap 'exit 3' TERM; sleep 600 & wait")
        other = await cri.run_container(pod, "sleep", "600", name="other")
        await cri.sh(patient, "until pidof sleep; do sleep 0.01; done", timeout=SOON)
        await cri.stop_container(patient, grace=60)
        await cri.remove_pod(pod)
    own.kill()
    own.start()
    async with own.connect() as cri:
        end = await the_end(cri, "asked", "box")
        assert (end.state, end.cause, end.exit_code, end.signal) == ("removed", "stopped", 3, 0)
        assert (end.stop.call, end.stop.signal, end.stop.killed) == ("StopContainer", 15, False)
        assert f"crib/{__version__}" in end.stop.agent
        assert end.stop.request_id
        assert end.removal.call == "RemovePodSandbox"
        end = await the_end(cri, other[:12])
        assert (end.pod, end.name, end.cause, end.signal) == ("stories/asked", "other", "stopped", 9)
        assert (end.stop.call, end.stop.killed) == ("StopPodSandbox", True)
        text = await command(cri, "why", "stories/asked", "-c", "box")
        assert "crib was asked to end it" in text
        assert "exit code 3" in text


async def test_an_end_by_itself_and_a_signal_of_somebody_else_are_told_apart(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("alone")
        box = await cri.run_container(pod, "sh", "-c", "exit 7", name="code")
        await cri.exited(box)
        end = await the_end(cri, "alone", "code")
        assert (end.state, end.cause, end.exit_code, end.signal) == ("exited", "exited", 7, 0)
        box = await cri.run_container(pod, "sleep", "600", name="signal")
        assert (await the_end(cri, "alone", "signal")).state == "running"
        os.kill(await first_pid(cri, box), signal.SIGKILL)
        await cri.exited(box)
        end = await the_end(cri, box)
        assert (end.cause, end.exit_code, end.signal, end.HasField("stop")) == ("signal", 137, 9, False)
