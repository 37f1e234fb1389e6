"""Figures of pods and containers under a known load, beside what the kernel's own files say."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crib.host.cgroup_files import number
from crib.host.cgroups import Cgroups, detect_layout
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

CGROUPS = Cgroups(detect_layout())
IS_V2 = CGROUPS.layout.mode == "v2"
LOAD = (
    "dd if=/dev/zero of=/dev/shm/memory bs=1M count=16;"
    " dd if=/dev/zero of=/disk bs=64k count=20; mkdir -p /deep/deeper;"
    " i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@dataclass
class Files:
    """The files of a container's cgroup, by the process in it."""

    pid: int

    def text(self, controller: str, name: str) -> bytes:
        controller = "" if IS_V2 else controller
        path = CGROUPS.own_path(controller, str(self.pid))
        return Path(CGROUPS.directory(path, controller), name).read_bytes()

    def cpu(self) -> int:
        """Nanoseconds."""
        if IS_V2:
            return (number(self.text("", "cpu.stat"), b"usage_usec") or 0) * 1000
        return int(self.text("cpuacct", "cpuacct.usage"))

    def memory(self) -> int:
        return int(self.text("memory", "memory.current" if IS_V2 else "memory.usage_in_bytes"))

    def faults(self) -> int:
        return number(self.text("memory", "memory.stat"), b"pgfault" if IS_V2 else b"total_pgfault") or 0

    def network(self, name: str = "eth0") -> tuple[int, int]:
        """Bytes received and sent, as a process in the pod sees them."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            if line.strip().startswith(f"{name}:"):
                values = line.partition(":")[2].split()
                return int(values[0]), int(values[8])
        raise AssertionError(f"no {name} in the pod")


async def files_of(cri: Cri, container: str) -> Files:
    request = pb.ContainerStatusRequest(container_id=container, verbose=True)
    answer = await cri.call(cri.runtime.ContainerStatus, request)
    return Files(json.loads(answer.info["info"])["pid"])


async def pod_figures(cri: Cri) -> pb.PodSandboxStats:
    (figures,) = (await cri.call(cri.runtime.ListPodSandboxStats, pb.ListPodSandboxStatsRequest())).stats
    return figures


def on_disk(directory: Path) -> tuple[int, int]:
    """Bytes and inodes, as du(1) counts them."""
    found = [directory, *directory.rglob("*")]
    return sum(os.lstat(each).st_blocks * 512 for each in found), len(found)


async def test_figures_are_those_of_the_kernels_files(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("figures")
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=128 << 20)
    box = await cri.run_container(pod, "sleep", "100", resources=resources)
    await cri.sh(box, LOAD)
    gateway = (await cri.sh(box, "ip route")).split("via ")[1].split()[0]
    await cri.execute(box, "ping", "-c", "1", "-W", "1", gateway)
    files = await files_of(cri, box)
    before = files.cpu(), files.faults(), *files.network()
    figures = await pod_figures(cri)
    after = files.cpu(), files.faults(), *files.network()
    (of_box,) = figures.linux.containers
    told = (
        of_box.cpu.usage_core_nano_seconds.value,
        of_box.memory.page_faults.value,
        figures.linux.network.default_interface.rx_bytes.value,
        figures.linux.network.default_interface.tx_bytes.value,
    )
    for low, value, high in zip(before, told, after, strict=True):
        assert 0 < low <= value <= high
    assert figures.linux.network.default_interface.name == "eth0"
    assert list(figures.linux.network.interfaces) == []
    assert figures.linux.cpu.usage_core_nano_seconds.value >= told[0]
    # nothing runs there by now but a sleep; the kernel keeps some pages by CPU, 64 on each
    assert abs(of_box.memory.usage_bytes.value - files.memory()) < 4 << 20
    assert of_box.memory.usage_bytes.value >= 16 << 20
    assert of_box.memory.available_bytes.value == (128 << 20) - of_box.memory.working_set_bytes.value
    assert 0 < of_box.memory.rss_bytes.value < 16 << 20, "a file of a tmpfs is no anonymous memory"
    assert figures.linux.process.process_count.value == 1
    upper = Path(cribd.data, "containers", box, "upper")
    assert (of_box.writable_layer.used_bytes.value, of_box.writable_layer.inodes_used.value) == on_disk(upper)
    assert of_box.HasField("io") == IS_V2
    await cri.remove_pod(pod)


async def test_the_first_answer_has_a_rate(cri: Cri) -> None:
    pod = await cri.run_pod("busy")
    await cri.run_container(pod, "sh", "-c", "while :; do :; done")
    first = (await pod_figures(cri)).linux
    assert first.cpu.usage_nano_cores.value > 0
    assert first.containers[0].cpu.usage_nano_cores.value > 0
    await cri.remove_pod(pod)


async def test_every_process_of_a_pod_counts_and_its_threads_do_not(cri: Cri) -> None:
    pod = await cri.run_pod("crowded")
    await cri.run_container(pod, "sh", "-c", "sleep 100 & sleep 100 & wait", name="three")
    await cri.run_container(pod, "sleep", "100", name="one")
    files = await files_of(cri, (await pod_figures(cri)).linux.containers[0].attributes.id)
    await until(lambda: len(files.text("pids", "cgroup.procs").split()) == 3)
    assert (await pod_figures(cri)).linux.process.process_count.value == 4
    await cri.remove_pod(pod)


async def test_streams_and_lists_tell_the_same_pods(cri: Cri) -> None:
    pods = [await cri.run_pod(name) for name in ("one", "two")]
    for pod in pods:
        await cri.run_container(pod, "sleep", "100")
    listed = await cri.call(cri.runtime.ListPodSandboxStats, pb.ListPodSandboxStatsRequest())
    request = pb.StreamPodSandboxStatsRequest()
    streamed = [
        each async for part in cri.runtime.StreamPodSandboxStats(request) for each in part.pod_sandbox_stats
    ]
    ids = [each.attributes.id for each in listed.stats]
    assert sorted(ids) == sorted(pod.id for pod in pods)
    assert [each.attributes.id for each in streamed] == ids
    for pod in pods:
        await cri.remove_pod(pod)
