"""Statistics of many pods from files as a kernel has them: what is opened, and what others wait meanwhile.

The long run prints its times. Its files are on a disk, so reading takes less than on a node. All that the
daemon does itself is there: the door, the engine, a thread's job for each batch, encoding.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from crib.api.server import Server
from crib.backends.pods import layer_sizes
from crib.backends.pods.usage import UsageReader
from crib.engine.stats import BATCH
from crib.host.cgroup_stats import StatsReader
from crib.host.cgroups import CgroupLayout
from crib.host.kept_files import MAX_FILES
from crib.model.container import ContainerRecord
from crib.model.paths import Paths
from crib.model.sandbox import SandboxRecord
from crib.model.settings import Settings
from crib.model.stats import CgroupUsage, ContainerUsage
from tests.fakes.networks import FakeNetworks
from tests.fakes.world import World

TREES = {
    "cpuacct": {"cpuacct.usage": "123456789\n"},
    "memory": {
        "memory.stat": "".join(f"line{number} {number}\n" for number in range(20))
        + "total_rss 8192\ntotal_swap 0\ntotal_pgfault 7\ntotal_pgmajfault 1\ntotal_inactive_file 4096\n",
        "memory.usage_in_bytes": "1048576\n",
        "memory.limit_in_bytes": "67108864\n",
        "memory.memsw.limit_in_bytes": "67108864\n",
    },
    "pids": {"cgroup.procs": "4711\n"},
}
OF_ONE = 5
"""Files with figures of one cgroup."""
CALLS = 30
CLIENT = """
import grpc, sys, time
socket, method, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
channel = grpc.insecure_channel(f"unix:{socket}", [("grpc.max_receive_message_length", -1)])
call = channel.unary_unary(f"/runtime.v1.RuntimeService/{method}", lambda _: b"", lambda raw: raw)
took = []
for number in range(count + 1):
    began = time.perf_counter()
    call(None, timeout=60)
    took.append(time.perf_counter() - began)
    time.sleep(0.005 if method == "Version" else 0)
took = sorted(took[1:])
print(*(f"{1000 * took[int(share * (len(took) - 1))]:.2f}" for share in (0.5, 0.99)))
"""


class TreeStatistics:
    """Reads what is below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        layout = CgroupLayout("v1", {name: str(root / name) for name in TREES}, None, frozenset())
        self.reader = StatsReader(layout)
        self._usage = UsageReader(Paths(str(root / "data"), str(root / "state")), self.reader)

    def write(self, *names: str) -> None:
        """The files of a cgroup."""
        for tree, files in TREES.items():
            place = self._root.joinpath(tree, *names)
            place.mkdir(parents=True)
            for name, text in files.items():
                (place / name).write_text(text)

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        assert len(asked) <= BATCH
        cgroups = [(record.id, f"/{pod.id}/{record.id}") for record, pod in asked]
        return await self._usage.containers(cgroups, whole=whole)

    async def pods(self, asked: Sequence[SandboxRecord], *, whole: bool = False) -> Sequence[CgroupUsage]:
        assert len(asked) <= BATCH
        return await self._usage.pods([f"/{record.id}" for record in asked], whole=whole)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(Settings(data=f"{tmp_path}/data", state=f"{tmp_path}/state"))
    made.clock = time.time_ns  # type: ignore[assignment]  # what is read has the real time
    made.handler.statistics = TreeStatistics(tmp_path / "cgroup")  # type: ignore[assignment]  # the port
    made.networks = FakeNetworks("10.1.0.0/22")
    made.node = made._new_node()
    await made.start()
    yield made
    await made.close()


async def with_pods(world: World, count: int) -> TreeStatistics:
    statistics = world.handler.statistics
    assert isinstance(statistics, TreeStatistics)
    for number in range(count):
        pod = await world.pod(f"web-{number}")
        container = await world.running(pod)
        statistics.write(pod)
        statistics.write(pod, container)
    return statistics


def count_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Of system calls that read, by name."""
    counts: dict[str, int] = {}
    for name in ("open", "read", "pread", "scandir", "stat", "fstat"):
        real = getattr(os, name)

        def counting(*args: object, name: str = name, real: object = real, **kwargs: object) -> object:
            counts[name] = counts.get(name, 0) + 1
            return real(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(os, name, counting)
    return counts


async def test_a_question_about_pods_opens_no_file_of_a_cgroup_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = BATCH + 10
    monkeypatch.setattr(layer_sizes, "FRESH", 3600.0)
    statistics = await with_pods(world, count)
    assert 2 * count * (OF_ONE + 4) <= MAX_FILES
    first = [
        figures async for batch in world.node.stats.pods(world.node.sandboxes.list()) for figures in batch
    ]
    counts = count_calls(monkeypatch)
    again = [
        figures async for batch in world.node.stats.pods(world.node.sandboxes.list()) for figures in batch
    ]
    monkeypatch.undo()
    assert len(first) == len(again) == count
    for figures in again:
        assert figures.usage.cgroup.processes is not None
        assert figures.usage.cgroup.processes.processes == 1
    # two cgroups with figures; and the processes of both, with how many cgroups there are below
    assert counts == {"pread": count * (2 * OF_ONE + 2), "fstat": 2 * count}
    assert not statistics.reader.close_old(0.0)


@pytest.mark.nightly
async def test_a_thousand_pods_keep_nobody_waiting(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    statistics = await with_pods(world, 1000)
    server = Server(world.node, "9.9", lambda kind, token: "")
    await server.start()
    server.gate.open()

    def client(method: str, count: int) -> subprocess.Popen[str]:
        command = (sys.executable, "-c", CLIENT, world.settings.socket_path, method, str(count))
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    async def told(asking: subprocess.Popen[str]) -> str:
        out, _ = await asyncio.to_thread(asking.communicate, timeout=120)
        assert asking.returncode == 0
        return "{} ms, p99 {} ms".format(*out.split())

    for method in ("ListPodSandboxStats", "ListContainerStats", "ListPodSandboxMetrics", "ListPodSandbox"):
        began = time.process_time()
        alone = await told(client(method, CALLS))
        cpu = (time.process_time() - began) / (CALLS + 1) * 1000
        with client(method, 1000 * CALLS) as listing:
            others = await told(client("Version", 10 * CALLS))
            assert listing.poll() is None, "it was called all the time"
            listing.kill()
        with capsys.disabled():
            print(f"\n{method}: {alone}, CPU {cpu:.1f} ms; Version meanwhile: {others}", end="")
    await server.stop(0)
    statistics.reader.close_old(0.0)
