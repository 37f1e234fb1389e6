"""What the runtime says of one pod: its sandboxes, and the attempts of its containers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from crib.client import pods
from crib.client.errors import NotFound
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_CREATED,
    CONTAINER_EXITED,
    CONTAINER_RUNNING,
    SANDBOX_READY,
    Container,
    ContainerFilter,
    ContainerStatus,
    ListContainersRequest,
    ListPodSandboxRequest,
    PodSandboxFilter,
)

if TYPE_CHECKING:
    from crib.client.connection import Connection

UID_LABEL = "io.kubernetes.pod.uid"
State = Literal["created", "running", "exited", "unknown"]
_STATES: Mapping[int, State] = {
    CONTAINER_CREATED: "created",
    CONTAINER_RUNNING: "running",
    CONTAINER_EXITED: "exited",
}
_NS = 1e9


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One sandbox of the pod. Times here and below are in seconds since the epoch."""

    id: str
    ready: bool
    attempt: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One container of the pod: a name, started for the `number`th time."""

    id: str
    name: str
    number: int
    state: State
    exit_code: int = 0
    reason: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0

    @property
    def ran(self) -> float:
        """Seconds."""
        return self.finished_at - self.started_at if self.started_at else 0.0

    @property
    def succeeded(self) -> bool:
        return self.state == "exited" and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class Observed:
    """One look. `attempts` are of the current sandbox, the newest last; `earlier`, of other sandboxes."""

    sandbox: Sandbox | None = None
    others: tuple[Sandbox, ...] = ()
    attempts: Mapping[str, tuple[Attempt, ...]] = field(default_factory=dict)
    earlier: Mapping[str, Attempt] = field(default_factory=dict)

    def latest(self, name: str) -> Attempt | None:
        """The newest attempt in the current sandbox."""
        found = self.attempts.get(name)
        return found[-1] if found else None

    def next_number(self, name: str) -> int:
        """Of the next attempt."""
        known = [*self.attempts.get(name, ()), *filter(None, [self.earlier.get(name)])]
        return max((attempt.number for attempt in known), default=-1) + 1

    def running(self) -> list[Attempt]:
        """The containers that run now."""
        newest = (attempts[-1] for attempts in self.attempts.values())
        return [attempt for attempt in newest if attempt.state == "running"]


async def observe(connection: Connection, uid: str) -> Observed:
    """Look at the pod with this uid. ClientError."""
    labels = {UID_LABEL: uid}
    listing = ListPodSandboxRequest(filter=PodSandboxFilter(label_selector=labels))
    found = (await connection.call(connection.runtime.ListPodSandbox, listing)).items
    sandboxes = sorted(
        (
            Sandbox(pod.id, pod.state == SANDBOX_READY, pod.metadata.attempt, pod.created_at / _NS)
            for pod in found
            if pod.metadata.uid == uid
        ),
        key=lambda sandbox: (sandbox.ready, sandbox.attempt, sandbox.created_at),
    )
    if not sandboxes:
        return Observed()
    request = ListContainersRequest(filter=ContainerFilter(label_selector=labels))
    listed = (await connection.call(connection.runtime.ListContainers, request)).containers
    ids = {sandbox.id for sandbox in sandboxes}
    containers = [container for container in listed if container.pod_sandbox_id in ids]
    attempts = [
        (container.pod_sandbox_id, attempt)
        for container, attempt in zip(
            containers, await asyncio.gather(*(_attempt(connection, c) for c in containers)), strict=True
        )
        if attempt is not None
    ]
    attempts.sort(key=lambda pair: pair[1].number)
    current: dict[str, tuple[Attempt, ...]] = {}
    earlier: dict[str, Attempt] = {}
    for sandbox_id, attempt in attempts:
        if sandbox_id == sandboxes[-1].id:
            current[attempt.name] = (*current.get(attempt.name, ()), attempt)
        else:
            earlier[attempt.name] = attempt
    return Observed(sandboxes[-1], tuple(sandboxes[:-1]), current, earlier)


async def _attempt(connection: Connection, container: Container) -> Attempt | None:
    """Times and exit codes are in the status only; None when it was removed since the list was made."""
    try:
        status = await pods.container_status(connection, container.id)
    except NotFound:
        return None
    return attempt_of(status)


def attempt_of(status: ContainerStatus) -> Attempt:
    """One container as the runtime reports it."""
    return Attempt(
        id=status.id,
        name=status.metadata.name,
        number=status.metadata.attempt,
        state=_STATES.get(status.state, "unknown"),
        exit_code=status.exit_code,
        reason=status.reason,
        started_at=status.started_at / _NS,
        finished_at=status.finished_at / _NS,
    )
