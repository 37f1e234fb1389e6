"""What runs pods and containers of one RuntimeClass handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from crib.ends import ByteStream, Session
from crib.model.container import ContainerRecord, ContainerUser, Exit
from crib.model.explanation import ExplainedSpec
from crib.model.facts import HandlerFacts, Readiness
from crib.model.ids import SandboxId
from crib.model.image import ImageConfig
from crib.model.sandbox import ProcessIdentity, Resources, SandboxRecord
from crib.model.stats import ContainerUsage, PodUsage
from crib.model.streams import AttachRequest, ExecProcess, PodAddress
from crib.ports.clocks import StageTimer


@dataclass(frozen=True, slots=True)
class CreatedContainer:
    """What Handler.create made: the first process waits to be started."""

    process: ProcessIdentity
    monitor: ProcessIdentity
    user: ContainerUser
    stop_signal: int = 0  # 0: the record's


@dataclass(frozen=True, slots=True)
class Observation:
    """What the world says of a container, for recovery; `status` is the runtime's word, or `gone`."""

    status: str
    exit: Exit | None
    monitor_alive: bool


class Handler(Protocol):
    """Runs pods and containers of one RuntimeClass handler."""

    @property
    def facts(self) -> HandlerFacts: ...

    async def readiness(self) -> Readiness:
        """Whether the programs that it needs are there; looked at every few seconds at most."""
        ...

    async def prepare_pod(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """Make pod files, pinned namespaces, sysctls, shm and cgroup; the infra process if pids are shared.
        Before anything is made, sysctls are checked: namespaced ones only, and never the host's.
        """
        ...

    async def stop_pod(self, record: SandboxRecord) -> None:
        """End the infra process, unpin the namespaces, unmount shm."""
        ...

    async def remove_pod(self, record: SandboxRecord) -> None:
        """`stop_pod`, then the pod's files, and its cgroup if we made it."""
        ...

    def netns_path(self, record: SandboxRecord) -> str:
        """Where the pod's network namespace is pinned."""
        ...

    async def create(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig, stage: StageTimer
    ) -> CreatedContainer:
        """Mount the root, write the bundle, run monitor and runtime's create. `record` is CREATING."""
        ...

    async def explain(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig
    ) -> ExplainedSpec:
        """The spec that `create` made, or would make now, and where its fields are from. Makes nothing."""
        ...

    def made_spec(self, record: ContainerRecord | SandboxRecord) -> bytes:
        """The OCI spec that it was made with, empty when that is gone. Of a pod without a process of its own:
        one with its namespaces and nothing else. Only those are named that are there.
        """
        ...

    async def start(self, record: ContainerRecord) -> None:
        """Returns when the container's program runs (execve(2) has happened), or has ended already."""
        ...

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        """Signal the first process, or every process of the container. Gone already is fine."""
        ...

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        """Run a command. WrongState when the container does not run, Broken in the runtime's words."""
        ...

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        """Join the streams of the container's first process. Several may; none of them slows it."""
        ...

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        """Connect to something in the pod; `containers` are its running ones. Unavailable when it refuses.

        A port: on the pod's loopback, IPv4 first, then IPv6. Of UDP each message is one datagram, framed as
        wire.datagrams says.
        """
        ...

    async def reopen_log(self, record: ContainerRecord) -> None: ...

    async def rotate_log(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        """Set the log aside if it has more than `size_max` bytes, and keep `files` in all; whether it had."""
        ...

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        """Put `resources` in force instead of `record.resources`, in a created or running container.

        All or nothing: what was changed before something failed is changed back. InvalidRequest for what
        cannot be asked for here, WrongState for a memory limit below what is in use.
        """
        ...

    async def update_pod(self, record: SandboxRecord) -> None:
        """Put the record's overhead and resources in force on the pod's cgroup, if that is ours.

        A cgroup that the client named (cgroup_parent) is the client's to limit.
        """
        ...

    async def delete(self, record: ContainerRecord) -> None:
        """Kill what is left, unmount the root, remove bundle, writable layer, exit file, sockets, cgroup."""
        ...

    def exits(self) -> AsyncIterator[Exit]:
        """First the exits that are on file, then new ones as they happen; ends never."""
        ...

    async def observe(self, record: ContainerRecord) -> Observation: ...

    async def pod_alive(self, record: SandboxRecord) -> bool:
        """Whether the pod's namespaces, /dev/shm and infra process are there."""
        ...

    def lost_pods(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        """Of those that `ready` gives, each that is no longer alive: at once, then as it happens; ends never.

        One may be told of again; that it was stopped meanwhile is the caller's to see.
        """
        ...

    async def container_usage(self, record: ContainerRecord, sandbox: SandboxRecord) -> ContainerUsage: ...

    async def pod_usage(self, record: SandboxRecord) -> PodUsage:
        """Of the pod's cgroup; interfaces come from PodNetworks.usage."""
        ...

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        """Remove what of ours is of no known id, asked for after the look, and contained commands of an
        earlier daemon; says what was, or with `dry` would be.
        """
        ...

    async def odd_logs(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        """Paths of logs that are nobody's, or that are missing, each with what is odd about it."""
        ...

    async def dismantle(self) -> None:
        """Undo what was set up for all pods. Called when there is no pod left, by a wipe."""
        ...

    async def close(self) -> None: ...
