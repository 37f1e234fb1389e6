"""What a shim says and is told, in our words: no message of its protocol leaves `tasks`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from crib.model.errors import Unavailable


class ProcessStatus(StrEnum):
    """Of a container's first process, or of an exec's."""

    UNKNOWN = "unknown"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    PAUSING = "pausing"


@dataclass(frozen=True, slots=True)
class Stdio:
    """Paths that a shim opens for a process; an empty one is no stream. A terminal has no standard error."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: the code (128+n after signal n), and when, in ns since the epoch."""

    code: int
    at: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Of one process, as its shim says."""

    status: ProcessStatus
    pid: int
    stdio: Stdio
    ended: Ended | None = None
    """Once it is STOPPED."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Pids on this host; 0 where there is no such process."""

    shim: int
    first: int


@dataclass(frozen=True, slots=True)
class Typed:
    """A message of a type that only its type_url names (google.protobuf.Any)."""

    type_url: str
    value: bytes


class ShimLost(Unavailable):
    """The shim has gone, or is not to be reached."""
