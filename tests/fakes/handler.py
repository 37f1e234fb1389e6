"""The port `Handler` in memory: pods and containers that a test lives through by hand."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from crib.ends import ByteStream, Session
from crib.model.container import ContainerRecord, ContainerUser, Exit
from crib.model.errors import Broken, InvalidRequest, NotFound, Unavailable, WrongState
from crib.model.explanation import ExplainedSpec
from crib.model.facts import HandlerFacts, Readiness
from crib.model.ids import ContainerId, SandboxId
from crib.model.image import FilesystemUsage, ImageConfig
from crib.model.sandbox import ProcessIdentity, Resources, SandboxRecord
from crib.model.stats import CgroupUsage, ContainerUsage, CpuUsage, PodUsage
from crib.model.streams import AttachRequest, ExecProcess, PodAddress
from crib.ports.clocks import Clock, StageTimer
from crib.ports.handler import CreatedContainer, Observation
from tests.fakes.failpoints import Failpoints
from tests.fakes.sessions import EchoStream, FakeSession

PROGRAMS = ("sh", "sleep", "true", "false", "echo", "cat")
_HOST_SYSCTL = re.compile(r"(?!net\.|kernel\.(?:sem|msg|shm)|fs\.mqueue\.).*")

STOP_OF_SYSTEMD = signal.SIGRTMIN + 3


@dataclass
class FakePod:
    """One pod's world."""

    infra: ProcessIdentity | None
    alive: bool = True
    limits: tuple[Resources | None, Resources | None] = (None, None)
    """Overhead and resources."""
    echoes: set[PodAddress] = field(default_factory=set)
    """Where somebody listens, who sends back what comes."""


@dataclass
class FakeContainer:
    """One container's world."""

    argv: tuple[str, ...]
    process: ProcessIdentity
    monitor: ProcessIdentity
    status: str = "created"
    monitor_alive: bool = True
    exit: Exit | None = None
    signals: list[int] = field(default_factory=list)
    stubborn: bool = False
    """Only SIGKILL ends it."""
    immortal: bool = False
    """Not even that does."""
    reopened: int = 0
    resources: Resources = Resources()
    in_use: int = 0
    """Bytes of memory."""
    log_size: int = 0
    attached: list[FakeSession] = field(default_factory=list)
    commands: list[FakeSession] = field(default_factory=list)


class FakeHandler:
    """Understands `true`, `false`, `sleep`, `cat`, and `sh -c` with `exit N` and `echo`, as its programs.

    Failpoints are named as the methods; for the failure of a method after its work was done: `METHOD_late`.
    """

    def __init__(self, clock: Clock) -> None:
        self.failpoints = Failpoints()
        self.pods: dict[SandboxId, FakePod] = {}
        self.containers: dict[ContainerId, FakeContainer] = {}
        self.cpu_usage: dict[str, int] = {}
        self.swept: list[str] = []
        self.odd: list[tuple[str, str]] = []
        """What is odd about the logs."""
        self.dismantled = False
        self._clock = clock
        self._news: asyncio.Queue[Exit] = asyncio.Queue()
        self._losses = asyncio.Event()
        self._contained: list[FakeSession] = []
        self._earlier: list[FakeSession] = []
        """Contained commands of this handler, and of the one before it."""
        self._pid = 1000

    @property
    def facts(self) -> HandlerFacts:
        return HandlerFacts("crun", "/usr/bin/crun", "1.8", "1.0.2", True, False, False)

    # pods

    async def readiness(self) -> Readiness:
        return Readiness(not self.facts.problem, "HandlerNotReady", self.facts.problem)

    async def prepare_pod(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        for name in record.config.sysctls:
            if _HOST_SYSCTL.fullmatch(name):
                raise InvalidRequest(f"{name} is not a namespaced sysctl", field="config.linux.sysctls")
        with stage("namespaces", "pod"):
            infra = self._process() if record.config.shares_pid else None
            self.pods[record.id] = FakePod(infra)
            await self.failpoints.reach("prepare_pod", record.id)
        return infra

    async def stop_pod(self, record: SandboxRecord) -> None:
        await self.failpoints.reach("stop_pod", record.id)
        if pod := self.pods.get(record.id):
            pod.alive = False

    async def remove_pod(self, record: SandboxRecord) -> None:
        await self.stop_pod(record)
        await self.failpoints.reach("remove_pod", record.id)
        self.pods.pop(record.id, None)

    def netns_path(self, record: SandboxRecord) -> str:
        return "" if record.config.host_network else f"/run/crib/sandboxes/{record.id}/ns/net"

    async def pod_alive(self, record: SandboxRecord) -> bool:
        await self.failpoints.reach("pod_alive", record.id)
        return record.id in self.pods and self.pods[record.id].alive

    async def lost_pods(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        while True:
            self._losses.clear()
            for record in tuple(ready()):
                if not await self.pod_alive(record):
                    yield record.id
            await self._losses.wait()

    # containers

    async def create(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig, stage: StageTimer
    ) -> CreatedContainer:
        with stage("create", record.config.name):
            await self.failpoints.reach("create", record.id)
            if sandbox.id not in self.pods or not self.pods[sandbox.id].alive:
                raise Broken(f"create of container {record.id}: pod {sandbox.id} has no namespaces")
            argv = (*(record.config.command or image.entrypoint), *(record.config.args or image.cmd))
            made = FakeContainer(argv, self._process(), self._process(), resources=record.resources)
            self.containers[record.id] = made
            await self.failpoints.reach("create_late", record.id)
        stop_signal = STOP_OF_SYSTEMD if argv[0] == "/sbin/init" else 0
        return CreatedContainer(made.process, made.monitor, ContainerUser(0, 0), stop_signal)

    async def explain(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig
    ) -> ExplainedSpec:
        await self.failpoints.reach("explain", record.id)
        config = record.config
        argv = [*(config.command or image.entrypoint), *(config.args or image.cmd)]
        if not argv:
            raise InvalidRequest(f"image {config.image} names no command", field="config.command")
        origin = "container command" if config.command else "image ENTRYPOINT"
        return ExplainedSpec(_spec(argv), {"": "default", "/process/args": origin})

    def made_spec(self, record: ContainerRecord | SandboxRecord) -> bytes:
        if isinstance(record, SandboxRecord):
            pod = self.pods.get(record.id)
            places = [{"type": "network", "path": self.netns_path(record)}] if pod and pod.alive else []
            return json.dumps({"ociVersion": "1.0.2", "linux": {"namespaces": places}}).encode()
        container = self.containers.get(record.id)
        return _spec(container.argv) if container is not None else b""

    async def start(self, record: ContainerRecord) -> None:
        await self.failpoints.reach("start", record.id)
        container = self._known(record)
        if container.status != "created":
            raise Broken(f"start of container {record.id}: it is {container.status}")
        program = container.argv[0].rsplit("/", 1)[-1] if container.argv else ""
        if program not in PROGRAMS:
            raise Broken(f"start of container {record.id}: {program!r}: no such file or directory")
        container.status = "running"
        code = _ends_with(container.argv)
        if code is not None:
            self.finish(record.id, code)
        await self.failpoints.reach("start_late", record.id)

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        await self.failpoints.reach("signal", record.id)
        container = self.containers.get(record.id)
        if container is None or container.status not in ("created", "running"):
            return
        container.signals.append(signum)
        if container.immortal or (container.stubborn and signum != signal.SIGKILL):
            return
        self.finish(record.id, 128 + signum)

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        await self.failpoints.reach("exec", record.id)
        container = self._known(record)
        if container.status != "running":
            raise WrongState(f"exec in container {record.id}: it is {container.status}")
        program = process.argv[0].rsplit("/", 1)[-1]
        if program not in PROGRAMS:
            raise Broken(f"exec of {program!r} in container {record.id}: no such file or directory")

        def take(data: bytes) -> None:
            if program == "cat" and data:
                session.say(data)
            elif program == "cat" and not process.tty:
                session.finish(0)

        session = FakeSession(_asked(process), take, lambda: session.finish(137))
        if process.tty:
            session.on_close = lambda: session.finish(129)
        session.say(_output_of(process.argv).replace(b"\n", b"\r\n" if process.tty else b"\n"))
        code = _ends_with(process.argv)
        if program == "cat" and not process.stdin:
            code = 0
        if code is not None:
            session.finish(code)
        container.commands.append(session)
        if process.contained:
            self._contained.append(session)
        return session

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        await self.failpoints.reach("attach", record.id)
        container = self.containers.get(record.id)
        if container is None or container.status not in ("created", "running"):
            raise WrongState(f"attach to container {record.id}: it has ended")
        config, is_cat = record.config, container.argv[0].endswith("cat")

        def take(data: bytes) -> None:
            if data and is_cat:
                self.say(record.id, data)
            elif not data and config.stdin_once:
                for one in container.attached:
                    if one.stdin is not None:
                        one.stdin.release()
                if is_cat:
                    self.finish(record.id, 0)

        asked = _asked(wanted) - (set() if config.stdin else {"stdin"})
        session = FakeSession(asked, take)

        def leave() -> None:
            if session in container.attached:
                container.attached.remove(session)
                if "stdin" in asked and config.stdin_once:
                    take(b"")

        session.on_close = leave
        container.attached.append(session)
        return session

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        await self.failpoints.reach("dial", record.id)
        if address.kind != "unix" and not 0 < address.port < 65536:
            raise InvalidRequest(f"{address.port} is not a port", field="port")
        pod = self.pods.get(record.id)
        if pod is None or not pod.alive or address not in pod.echoes:
            raise Unavailable(f"connecting to {address} of sandbox {record.id}: connection refused")
        return EchoStream()

    async def reopen_log(self, record: ContainerRecord) -> None:
        await self.failpoints.reach("reopen_log", record.id)
        self._known(record).reopened += 1

    async def rotate_log(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        await self.failpoints.reach("rotate_log", record.id)
        container = self._known(record)
        if container.log_size <= size_max:
            return False
        container.log_size = 0
        await self.reopen_log(record)
        return True

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        await self.failpoints.reach("update", record.id)
        container = self.containers.get(record.id)
        if container is None:
            raise WrongState(f"update of container {record.id}: it has no bundle")
        if set(resources.cpuset_cpus) - set("0123456789,-"):
            raise InvalidRequest("not a list", field="linux.cpuset_cpus")
        if 0 < resources.memory_limit_in_bytes < container.in_use:
            raise WrongState(f"update of container {record.id}: {container.in_use} bytes are in use")
        container.resources = resources
        await self.failpoints.reach("update_late", record.id)

    async def update_pod(self, record: SandboxRecord) -> None:
        await self.failpoints.reach("update_pod", record.id)
        if record.id not in self.pods:
            raise Broken(f"limits of sandbox {record.id}: it has no cgroup")
        if not record.config.cgroup_parent:
            self.pods[record.id].limits = (record.overhead, record.resources)

    async def delete(self, record: ContainerRecord) -> None:
        await self.failpoints.reach("delete", record.id)
        self.containers.pop(record.id, None)

    async def exits(self) -> AsyncIterator[Exit]:
        for container in tuple(self.containers.values()):
            if container.exit is not None:
                yield container.exit
        while True:
            yield await self._news.get()

    async def observe(self, record: ContainerRecord) -> Observation:
        await self.failpoints.reach("observe", record.id)
        container = self.containers.get(record.id)
        if container is None:
            return Observation("gone", None, False)
        return Observation(container.status, container.exit, container.monitor_alive)

    async def container_usage(self, record: ContainerRecord, sandbox: SandboxRecord) -> ContainerUsage:
        await self.failpoints.reach("container_usage", record.id)
        if record.id not in self.containers:
            raise NotFound(f"container {record.id} has no cgroup")
        return ContainerUsage(self._usage(record.id), FilesystemUsage("/upper", 4096, 1, self._clock()))

    async def pod_usage(self, record: SandboxRecord) -> PodUsage:
        await self.failpoints.reach("pod_usage", record.id)
        return PodUsage(self._usage(record.id), at=self._clock())

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        await self.failpoints.reach("sweep")
        recorded = known()
        if dry:
            return [
                *(f"container {key}" for key in self.containers if key not in recorded),
                *(f"sandbox {key}" for key in self.pods if key not in recorded),
            ]
        for container in [key for key in self.containers if key not in recorded]:
            del self.containers[container]
            self.swept.append(f"container {container}")
        for sandbox in [key for key in self.pods if key not in recorded]:
            del self.pods[sandbox]
            self.swept.append(f"sandbox {sandbox}")
        for session in self._earlier:
            session.finish(137)
        return self.swept

    async def odd_logs(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        await self.failpoints.reach("odd_logs")
        return self.odd

    async def dismantle(self) -> None:
        await self.failpoints.reach("dismantle")
        self.dismantled = True

    async def close(self) -> None:
        await self.failpoints.reach("close")

    # what a test does to the world

    def lose(self, sandbox: SandboxId) -> None:
        """A namespace or the infra process of the pod goes, and that is noticed."""
        self.pods[sandbox].alive = False
        self._losses.set()

    def finish(self, container: ContainerId, code: int, *, oom_killed: bool = False) -> Exit:
        """The first process ends; the monitor tells of it and ends too."""
        world = self.containers[container]
        world.status = "stopped"
        world.monitor_alive = False
        world.exit = Exit(container, code, self._clock(), oom_killed=oom_killed)
        for session in (*world.attached, *world.commands):
            session.finish(code if session in world.attached else 137)
        self._news.put_nowait(world.exit)
        return world.exit

    def say(self, container: ContainerId, data: bytes, stream: str = "stdout") -> None:
        """The first process writes."""
        for session in self.containers[container].attached:
            session.say(data, stream)

    def vanish(self, container: ContainerId, *, tell: bool = False) -> None:
        """Process and monitor die and leave no exit file; told as lost, if that is wanted."""
        world = self.containers[container]
        world.status, world.monitor_alive, world.exit = "stopped", False, None
        if tell:
            self._news.put_nowait(Exit(container, 255, self._clock(), lost=True))

    def restarted(self) -> FakeHandler:
        """The same world as a daemon sees it that has just started."""
        again = FakeHandler(self._clock)
        again.pods, again.containers, again._pid = self.pods, self.containers, self._pid
        again._earlier = self._contained
        return again

    def _known(self, record: ContainerRecord) -> FakeContainer:
        container = self.containers.get(record.id)
        if container is None:
            raise Broken(f"container {record.id} is not there")
        return container

    def _process(self) -> ProcessIdentity:
        self._pid += 1
        return ProcessIdentity(self._pid, self._pid * 10)

    def _usage(self, key: str) -> CgroupUsage:
        return CgroupUsage(cpu=CpuUsage(self._clock(), self.cpu_usage.get(key, 0)))


def _spec(argv: Sequence[str]) -> bytes:
    return json.dumps({"ociVersion": "1.0.2", "process": {"args": argv}}).encode()


def _ends_with(argv: Sequence[str]) -> int | None:
    """The code that a program ends with at once; None for one that goes on."""
    program = argv[0].rsplit("/", 1)[-1]
    if program in ("true", "false", "echo"):
        return 1 if program == "false" else 0
    if program != "sh" or len(argv) < 3:
        return None
    if match := re.search(r"exit (\d+)", argv[2]):
        return int(match[1])
    return None if re.search(r"sleep(?!.*&)", argv[2]) else 0


def _asked(wanted: ExecProcess | AttachRequest) -> set[str]:
    names = {name for name in ("stdin", "stdout", "stderr") if getattr(wanted, name)}
    return names - {"stderr"} if wanted.tty else names


def _output_of(argv: Sequence[str]) -> bytes:
    script = next((part for part in re.split(r"[;&]", argv[-1]) if part.strip().startswith("echo")), "")
    words = list(argv) if argv[0].endswith("echo") else shlex.split(script)
    return (" ".join(words[1:]) + "\n").encode() if words and words[0].endswith("echo") else b""
