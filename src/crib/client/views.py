"""What a runtime says of its pods, containers, images and itself, for people: one class a noun.

Times are in UTC. `raw` is the message of the CRI that it was made of, with all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from crib.client.errors import CommandFailed
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crib.stubs.node.v1 import node_pb2

_CONTAINER_STATES: Mapping[int, str] = MappingProxyType(
    {pb.CONTAINER_CREATED: "created", pb.CONTAINER_RUNNING: "running", pb.CONTAINER_EXITED: "exited"}
)
SHORT_ID = 12
"""Characters of an id that people are shown."""


@dataclass(frozen=True, slots=True)
class PodInfo:
    """A pod sandbox. `ready` says that it stands; `ips` are its addresses, the first one its own."""

    id: str
    name: str
    namespace: str
    uid: str
    ready: bool
    created: datetime
    ips: tuple[str, ...]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    handler: str
    raw: pb.PodSandboxStatus = field(repr=False, compare=False)

    @property
    def ip(self) -> str:
        """The first address; empty on the node's network."""
        return self.ips[0] if self.ips else ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} ({self.id[:SHORT_ID]})"


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container. `state` is created, running, exited or unknown; what has not come yet is None."""

    id: str
    name: str
    state: str
    image: str
    """As it was asked for."""
    created: datetime
    started: datetime | None
    finished: datetime | None
    exit_code: int | None
    reason: str
    message: str
    log_path: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    raw: pb.ContainerStatus = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:SHORT_ID]})"


@dataclass(frozen=True, slots=True)
class PodContainer:
    """A pod with its one container, as `run_pod_container` makes them."""

    pod: PodInfo
    container: ContainerInfo


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image on the node. `names` are its tags, `digests` its names by digest; `size` is in bytes."""

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    pinned: bool
    raw: pb.Image = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """How a container ended. `reason` is the runtime's: Completed, Error, OOMKilled, or its own."""

    code: int
    reason: str
    message: str
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command wrote, and its exit code."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """What it wrote to its standard output, as UTF-8; bytes that are none are replaced."""
        return self.out.decode("utf-8", "replace")

    def check(self) -> Self:
        """Itself, if the command succeeded. CommandFailed with the end of its errors."""
        if self.code:
            words = self.err[-WORDS:].decode("utf-8", "replace").strip()
            raise CommandFailed(f"the command ended with {self.code}" + (f": {words}" if words else ""))
        return self


WORDS = 1 << 10
"""Bytes of a failed command's errors that `CommandResult.check` shows."""


@dataclass(frozen=True, slots=True)
class PullReport:
    """How far a pull is: its stage (resolving, fetching, committing, done) and bytes of compressed layers."""

    image: str
    stage: str
    host: str
    done_bytes: int
    total_bytes: int
    layers: int
    layers_done: int
    raw: node_pb2.PullProgress = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something that happened. `number` is crib's, to go on after it; 0 of another runtime.

    `kind` is container, pod, image, network or node. Where events are missing, because they are not kept any
    more or another runtime was away, there is one with the action `missed`.
    """

    number: int
    at: datetime
    kind: str
    action: str
    id: str
    pod_id: str
    pod: str
    """NAMESPACE/NAME."""
    name: str
    message: str
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a runtime, such as NetworkReady."""

    type: str
    met: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """Who answers, and whether it is ready for pods."""

    name: str
    version: str
    api_version: str
    conditions: tuple[Condition, ...]
    raw: pb.StatusResponse = field(repr=False, compare=False)

    @property
    def ready(self) -> bool:
        """Whether the runtime and its network can take pods."""
        needed = {"RuntimeReady", "NetworkReady"}
        return needed <= {condition.type for condition in self.conditions if condition.met}


def moment(number: int) -> datetime:
    """A time of the CRI: nanoseconds since the epoch."""
    return datetime.fromtimestamp(number / 1e9, UTC)


def nanoseconds(time: datetime) -> int:
    """The same the other way."""
    return int(time.timestamp() * 1e9)


def pod_info(status: pb.PodSandboxStatus) -> PodInfo:
    """Of a sandbox's status."""
    network = status.network
    return PodInfo(
        id=status.id,
        name=status.metadata.name,
        namespace=status.metadata.namespace,
        uid=status.metadata.uid,
        ready=status.state == pb.SANDBOX_READY,
        created=moment(status.created_at),
        ips=tuple(ip for ip in (network.ip, *(more.ip for more in network.additional_ips)) if ip),
        labels=dict(status.labels),
        annotations=dict(status.annotations),
        handler=status.runtime_handler,
        raw=status,
    )


def container_info(status: pb.ContainerStatus) -> ContainerInfo:
    """Of a container's status."""
    has_ended = status.state == pb.CONTAINER_EXITED
    return ContainerInfo(
        id=status.id,
        name=status.metadata.name,
        state=_CONTAINER_STATES.get(status.state, "unknown"),
        image=status.image.user_specified_image or status.image.image,
        created=moment(status.created_at),
        started=moment(status.started_at) if status.started_at else None,
        finished=moment(status.finished_at) if has_ended and status.finished_at else None,
        exit_code=status.exit_code if has_ended else None,
        reason=status.reason,
        message=status.message,
        log_path=status.log_path,
        labels=dict(status.labels),
        annotations=dict(status.annotations),
        raw=status,
    )


def container_exit(status: pb.ContainerStatus) -> ContainerExit:
    """Of the status of a container that has ended."""
    finished = moment(status.finished_at) if status.finished_at else None
    return ContainerExit(status.exit_code, status.reason, status.message, finished)


def image_info(image: pb.Image) -> ImageInfo:
    """Of an image."""
    return ImageInfo(
        image.id, tuple(image.repo_tags), tuple(image.repo_digests), image.size, image.pinned, image
    )


def runtime_info(version: pb.VersionResponse, status: pb.StatusResponse) -> RuntimeInfo:
    """Of both answers."""
    conditions = tuple(
        Condition(one.type, one.status, one.reason, one.message) for one in status.status.conditions
    )
    return RuntimeInfo(
        version.runtime_name, version.runtime_version, version.runtime_api_version, conditions, status
    )


def pull_report(progress: node_pb2.PullProgress) -> PullReport:
    """Of one message of a pull."""
    finished = [layer for layer in progress.layers if layer.stage in ("done", "present")]
    return PullReport(
        image=progress.image,
        stage=progress.stage,
        host=progress.host,
        done_bytes=sum(
            layer.total_bytes if layer in finished else layer.done_bytes for layer in progress.layers
        ),
        total_bytes=sum(layer.total_bytes for layer in progress.layers),
        layers=len(progress.layers),
        layers_done=len(finished),
        raw=progress,
    )


def runtime_event(event: node_pb2.Event) -> RuntimeEvent:
    """Of crib's event, or of one of the CRI in that form."""
    return RuntimeEvent(
        number=event.number,
        at=moment(event.at),
        kind=event.kind,
        action=event.action,
        id=event.id,
        pod_id=event.pod_sandbox_id,
        pod=event.pod,
        name=event.name,
        message=event.message,
        exit_code=event.exit_code if event.HasField("exit_code") else None,
    )


def missed_event(cut: node_pb2.EventsCut) -> RuntimeEvent:
    """What stands where events are missing."""
    at = moment(cut.resumes_at_time) if cut.resumes_at_time else datetime.now(UTC)
    return RuntimeEvent(cut.after, at, "node", "missed", "", "", "", "", "events are missing here", None)
