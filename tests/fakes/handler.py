"""The port `Handler` in memory, over a `FakeHost`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from crib.model.container import ContainerRecord
from crib.model.errors import Broken, InvalidRequest
from crib.model.facts import HandlerFacts, Readiness
from crib.model.ids import ContainerId, SandboxId
from crib.model.image import FilesystemUsage
from crib.model.sandbox import ProcessIdentity, SandboxRecord
from crib.model.settings import Settings
from crib.model.stats import (
    CgroupUsage,
    ContainerUsage,
    CpuUsage,
    MemoryParts,
    MemoryUsage,
    ProcessUsage,
)
from crib.ports.clocks import Clock, StageTimer
from tests.fakes.checkpoints import FakeCheckpoints
from tests.fakes.containers import FakeContainers
from tests.fakes.failpoints import Failpoints
from tests.fakes.host import FakeHost, FakePod
from tests.fakes.streams import FakeStreams

_HOST_SYSCTL = re.compile(r"(?!net\.|kernel\.(?:sem|msg|shm)|fs\.mqueue\.).*")


class FakeHandler:
    """Failpoints are named as the methods, those of pods and logs with their noun: `stop_pod`, `rotate_log`.

    For the failure of a method after its work was done: `METHOD_late`.
    """

    def __init__(self, clock: Clock, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost(clock)
        self.failpoints = Failpoints()
        self.pods = FakePods(self.host, self.failpoints)
        self.containers = FakeContainers(self.host, self.failpoints)
        self.streams = FakeStreams(self.host, self.failpoints)
        self.logs = FakeLogs(self.host, self.failpoints)
        self.statistics = FakeStatistics(self.host, self.failpoints)
        self.checkpoints: FakeCheckpoints | None = FakeCheckpoints(self.host, self.failpoints)
        self.swept: list[str] = []
        self.dismantled = False
        self.checkpoint_problem = ""
        self.adapted: Settings | None = None
        """What a reload gave last."""
        self._earlier = tuple(self.host.contained)

    @property
    def facts(self) -> HandlerFacts:
        facts = HandlerFacts("crun", "/usr/bin/crun", "1.8", "1.0.2", True, False, False)
        return replace(facts, kind="oci", checkpoints=True, checkpoint_problem=self.checkpoint_problem)

    def adapt(self, settings: Settings) -> None:
        self.adapted = settings

    async def readiness(self) -> Readiness:
        return Readiness(not self.facts.problem, "HandlerNotReady", self.facts.problem)

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        await self.failpoints.reach("sweep")
        recorded = known()
        if dry:
            return [
                *(f"container {key}" for key in self.host.containers if key not in recorded),
                *(f"sandbox {key}" for key in self.host.pods if key not in recorded),
            ]
        for container in [key for key in self.host.containers if key not in recorded]:
            del self.host.containers[container]
            self.swept.append(f"container {container}")
        for sandbox in [key for key in self.host.pods if key not in recorded]:
            del self.host.pods[sandbox]
            self.swept.append(f"sandbox {sandbox}")
        for session in self._earlier:
            session.finish(137)
        return self.swept

    async def dismantle(self) -> None:
        await self.failpoints.reach("dismantle")
        self.dismantled = True

    async def close(self) -> None:
        await self.failpoints.reach("close")

    def restarted(self) -> FakeHandler:
        """The same host as a daemon sees it that has just started."""
        self.host.news = asyncio.Queue()
        return FakeHandler(self.host.clock, self.host)


class FakePods:
    """See PodRuntime."""

    def __init__(self, host: FakeHost, failpoints: Failpoints) -> None:
        self._host = host
        self._failpoints = failpoints

    async def prepare(self, record: SandboxRecord, stage: StageTimer) -> None:
        for name in record.config.sysctls:
            if _HOST_SYSCTL.fullmatch(name):
                raise InvalidRequest(f"{name} is not a namespaced sysctl", field="linux.sysctls")
        with stage("namespaces", "pod"):
            self._host.pods[record.id] = FakePod()
            await self._failpoints.reach("prepare_pod", record.id)

    async def start(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        await self._failpoints.reach("start_pod", record.id)
        self._host.pods[record.id].started = True
        if not record.config.shares_pid:
            return None
        with stage("infra", "pod"):
            return self._host.process()

    async def stop(self, record: SandboxRecord) -> None:
        await self._failpoints.reach("stop_pod", record.id)
        if pod := self._host.pods.get(record.id):
            pod.alive = False

    async def remove(self, record: SandboxRecord) -> None:
        await self.stop(record)
        await self._failpoints.reach("remove_pod", record.id)
        self._host.pods.pop(record.id, None)

    def netns_path(self, record: SandboxRecord) -> str:
        return "" if record.config.host_network else f"/run/crib/sandboxes/{record.id}/ns/net"

    def made_spec(self, record: SandboxRecord) -> bytes:
        pod = self._host.pods.get(record.id)
        places = [{"type": "network", "path": self.netns_path(record)}] if pod and pod.alive else []
        return json.dumps({"ociVersion": "1.0.2", "linux": {"namespaces": places}}).encode()

    async def update(self, record: SandboxRecord) -> None:
        await self._failpoints.reach("update_pod", record.id)
        if record.id not in self._host.pods:
            raise Broken(f"limits of sandbox {record.id}: it has no cgroup")
        if not record.config.cgroup_parent:
            self._host.pods[record.id].limits = (record.overhead, record.resources)

    async def alive(self, record: SandboxRecord) -> bool:
        await self._failpoints.reach("pod_alive", record.id)
        pod = self._host.pods.get(record.id)
        return pod is not None and pod.alive and pod.started

    async def losses(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        while True:
            self._host.lost.clear()
            for record in tuple(ready()):
                if not await self.alive(record):
                    yield record.id
            await self._host.lost.wait()


class FakeLogs:
    """See ContainerLogs."""

    def __init__(self, host: FakeHost, failpoints: Failpoints) -> None:
        self._host = host
        self._failpoints = failpoints
        self.oddities: list[tuple[str, str]] = []

    async def reopen(self, record: ContainerRecord) -> None:
        await self._failpoints.reach("reopen_log", record.id)
        self._host.container(record).reopened += 1

    async def rotate(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        await self._failpoints.reach("rotate_log", record.id)
        container = self._host.container(record)
        if container.log_size <= size_max:
            return False
        container.log_size = 0
        await self.reopen(record)
        return True

    async def sizes(self, records: Sequence[ContainerRecord]) -> Mapping[ContainerId, int]:
        await self._failpoints.reach("log_sizes")
        return {row.id: self._host.container(row).log_size for row in records if row.log_path}

    async def odd(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        await self._failpoints.reach("odd_logs")
        return self.oddities


class FakeStatistics:
    """See Statistics."""

    def __init__(self, host: FakeHost, failpoints: Failpoints) -> None:
        self._host = host
        self._failpoints = failpoints
        self.cpu: dict[str, int] = {}
        """Core nanoseconds by container and pod."""
        self.batches: list[int] = []
        """How many were read in each go."""
        self.before_reading: Callable[[], None] = lambda: None

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        await self._failpoints.reach("container_usage")
        self.batches.append(len(asked))
        self.before_reading()
        layer = FilesystemUsage("/upper", 4096, 1, self._host.clock())
        here = self._host.containers
        return [
            ContainerUsage(self._usage(record.id, whole), layer) if record.id in here else _NOTHING
            for record, _ in asked
        ]

    async def pods(self, asked: Sequence[SandboxRecord], *, whole: bool = False) -> Sequence[CgroupUsage]:
        await self._failpoints.reach("pod_usage")
        self.batches.append(len(asked))
        self.before_reading()
        return [self._usage(record.id, whole, processes=1) for record in asked]

    def _usage(self, key: str, whole: bool, processes: int | None = None) -> CgroupUsage:
        at = self._host.clock()
        user = self.cpu.get(key, 0) if whole else None
        return CgroupUsage(
            cpu=CpuUsage(at, self.cpu.get(key, 0), user=user, system=0 if whole else None),
            memory=MemoryUsage(at, 1 << 20, parts=MemoryParts(cache=0) if whole else None),
            processes=None if processes is None and not whole else ProcessUsage(at, processes or 1),
            oom_kills=0 if whole else None,
        )


_NOTHING = ContainerUsage(CgroupUsage())
