"""The daemon's metrics as Prometheus reads them: from a real daemon, after a pod's life."""

from __future__ import annotations

import asyncio
import http.client
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from crib.client.errors import NotFound
from crib.observe.families import FAMILIES, PROCESS
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.registry import free_port
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("crib", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(connection: http.client.HTTPConnection) -> Samples:
    """Every sample by name and labels."""
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    connection.close()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def moved(before: Samples, after: Samples, name: str, **labels: str) -> float:
    key = name, frozenset(labels.items())
    return after.get(key, 0.0) - before.get(key, 0.0)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def test_a_pods_life_is_in_the_metrics(cri: Cri, cribd: Cribd) -> None:
    def now() -> Samples:
        return scraped(SocketConnection(cribd.state / "metrics.sock"))

    before = await asyncio.to_thread(now)
    pod = await cri.run_pod("counted")
    box = await cri.run_container(pod, "sh", "-c", "exit 3")
    await cri.exited(box)
    with pytest.raises(NotFound):
        await cri.call(cri.runtime.ContainerStatus, pb.ContainerStatusRequest(container_id="nothing"))
    during = await asyncio.to_thread(now)
    await cri.remove_pod(pod)
    after = await asyncio.to_thread(now)

    assert during["crib_ready", frozenset()] == 1
    assert during["crib_pods", frozenset({("state", "ready")})] == 1
    assert during["crib_containers", frozenset({("state", "exited")})] == 1
    assert after["crib_pods", frozenset({("state", "ready")})] == 0
    for method in ("RunPodSandbox", "CreateContainer", "StartContainer", "RemovePodSandbox"):
        assert moved(before, after, "crib_calls_total", method=method, code="OK") == 1
        assert moved(before, after, "crib_call_duration_seconds_count", method=method) == 1
    assert moved(before, after, "crib_calls_total", method="ContainerStatus", code="NOT_FOUND") == 1
    for stage in ("RunPodSandbox", "namespaces", "network", "CreateContainer", "root", "create"):
        assert moved(before, after, "crib_stage_duration_seconds_sum", stage=stage) > 0, stage
    for operation in ("attach", "detach"):
        assert moved(before, after, "crib_network_operation_duration_seconds_count", operation=operation) == 1
    assert moved(before, after, "crib_container_exits_total", reason="Error") == 1
    for kind in ("created", "started", "stopped", "deleted"):
        assert moved(before, after, "crib_events_total", type=kind) == 2
    assert moved(before, after, "crib_programs_started_total", program="conmon") == 1
    assert moved(before, after, "process_cpu_seconds_total") >= 0
    names = {name for name, _ in after}
    assert {name for name, _, _ in PROCESS} <= names
    assert {family.name for family in FAMILIES if not family.labels} - names == set()


def test_the_socket_is_for_root_and_the_group(cribd: Cribd) -> None:
    found = (cribd.state / "metrics.sock").stat()
    assert stat.filemode(found.st_mode) == "srw-rw----"
    assert (found.st_uid, found.st_gid) == (0, cribd.socket.stat().st_gid)


async def test_health_is_told_on_the_same_socket_as_the_calls(cribd: Cribd) -> None:
    async with aio.insecure_channel(f"unix:{cribd.socket}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_metrics_on_the_loopback_and_what_a_restart_keeps_and_ends() -> None:
    port = free_port()
    with running_cribd(extra=f'[metrics]\nlisten = "127.0.0.1:{port}"', built=()) as cribd:
        samples = scraped(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
        assert samples["crib_ready", frozenset()] == 1
        assert not (cribd.state / "metrics.sock").exists()
        cribd.stop()
        with pytest.raises(ConnectionRefusedError):
            scraped(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
        with socket.create_server(("127.0.0.1", port)):
            cribd.start()
            assert f"metrics: cannot listen on 127.0.0.1:{port}" in cribd.log()
