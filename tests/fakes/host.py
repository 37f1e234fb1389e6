"""What the fake handler runs, as a host would: pods and containers, there for every daemon that starts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from crib.model.container import ContainerRecord, Exit
from crib.model.errors import Broken
from crib.model.ids import ContainerId, SandboxId
from crib.model.sandbox import ProcessIdentity, Resources
from crib.model.streams import PodAddress
from crib.ports.checkpoints import Packing
from crib.ports.clocks import Clock
from tests.fakes.sessions import FakeSession

PROGRAMS = ("sh", "sleep", "true", "false", "echo", "cat")


@dataclass
class FakePod:
    """One pod's world."""

    started: bool = False
    alive: bool = True
    limits: tuple[Resources | None, Resources | None] = (None, None)
    """Overhead and resources."""
    echoes: set[PodAddress] = field(default_factory=set)
    """Where somebody listens, who sends back what comes."""


@dataclass
class FakeContainer:
    """One container's world."""

    argv: tuple[str, ...]
    process: ProcessIdentity | None
    env: dict[str, str] = field(default_factory=dict)
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
    paused: bool = False
    in_use: int = 0
    """Bytes of memory."""
    log_size: int = 0
    attached: list[FakeSession] = field(default_factory=list)
    commands: list[FakeSession] = field(default_factory=list)


class FakeHost:
    """Pods and containers that a test lives through by hand."""

    def __init__(self, clock: Clock, *, elsewhere: bool = False) -> None:
        """`elsewhere`: what runs are no processes of this host, as with virtual machines."""
        self.pods: dict[SandboxId, FakePod] = {}
        self.containers: dict[ContainerId, FakeContainer] = {}
        self.clock = clock
        self.contained: list[FakeSession] = []
        """Commands of every daemon so far that the next one's sweep ends."""
        self.news: asyncio.Queue[Exit] = asyncio.Queue()
        """Exits that the daemon of now has not been told."""
        self.lost = asyncio.Event()
        """Set when a pod has lost something."""
        self.elsewhere = elsewhere
        self.captured: set[ContainerId] = set()
        """Written down, and neither packed away nor forgotten yet."""
        self.archives: dict[str, Packing] = {}
        """By location; those that have not got their name are at `LOCATION.partial`."""
        self._pid = 1000

    def process(self) -> ProcessIdentity | None:
        """A new one, as this host sees it."""
        if self.elsewhere:
            return None
        self._pid += 1
        return ProcessIdentity(self._pid, self._pid * 10)

    def container(self, record: ContainerRecord) -> FakeContainer:
        """The record's; Broken when it is not there."""
        container = self.containers.get(record.id)
        if container is None:
            raise Broken(f"container {record.id} is not there")
        return container

    def lose(self, sandbox: SandboxId) -> None:
        """A namespace or the infra process of the pod goes, and that is noticed."""
        self.pods[sandbox].alive = False
        self.lost.set()

    def finish(self, container: ContainerId, code: int, *, oom_killed: bool = False) -> Exit:
        """The first process ends; the monitor tells of it and ends too."""
        world = self.containers[container]
        world.status = "stopped"
        world.monitor_alive = False
        world.exit = Exit(container, code, self.clock(), oom_killed=oom_killed)
        for session in (*world.attached, *world.commands):
            session.finish(code if session in world.attached else 137)
        self.news.put_nowait(world.exit)
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
            self.news.put_nowait(Exit(container, 255, self.clock(), lost=True))


def ends_with(argv: Sequence[str]) -> int | None:
    """The code that a program ends with at once; None for one that goes on."""
    program = argv[0].rsplit("/", 1)[-1]
    if program in ("true", "false", "echo"):
        return 1 if program == "false" else 0
    if program != "sh" or len(argv) < 3:
        return None
    if match := re.search(r"exit (\d+)", argv[2]):
        return int(match[1])
    return None if re.search(r"sleep(?!.*&)", argv[2]) else 0
