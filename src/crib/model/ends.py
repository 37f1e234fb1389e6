"""Why a container has ended, as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from crib.model.caller import Caller
from crib.model.ids import ContainerId, SandboxId


class OomLevel(StrEnum):
    """Whose memory limit was hit."""

    UNKNOWN = ""
    CONTAINER = "container"
    POD = "pod"
    ANCESTOR = "ancestor"
    """A cgroup above the pods'."""
    HOST = "host"
    """The machine had no memory left."""


@dataclass(frozen=True, slots=True)
class OomKill:
    """The kernel killed a process of a container for want of memory."""

    level: OomLevel = OomLevel.UNKNOWN
    cgroup: str = ""
    """Whose limit was hit."""
    limit: int | None = None
    """Bytes."""
    pid: int = 0
    """Of the process that was killed; 0 where it is not known."""
    process: str = ""
    """Its name."""
    memory: int = 0
    """Bytes of its own that it had in memory; 0 where it is not known."""
    is_logged: bool = False
    """The kernel's log says so; else the counters of the cgroups do."""


class EndCause(StrEnum):
    """What ended it."""

    EXITED = "exited"
    """Its first process ended by itself."""
    SIGNAL = "signal"
    """By a signal that crib did not send: of the program itself, of another process, of the kernel."""
    OOM = "oom"
    STOPPED = "stopped"
    """crib ended it, because somebody asked for that."""
    START_FAILED = "start-failed"
    MONITOR_LOST = "monitor-lost"
    """Whatever it was: nobody was left to see it."""
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Somebody asked crib to end it."""

    verb: str
    """The call, as `StopContainer`; empty for what crib did by itself."""
    caller: Caller
    at: int
    grace: float = 0.0
    """Seconds between the stop signal and SIGKILL."""
    signal: int = 9
    """The first that was sent."""
    killed: bool = False
    """SIGKILL was sent."""
    reason: str = ""
    """Why, where somebody has said so."""


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """What is kept of a container that has ended, for a while longer than its record."""

    id: ContainerId
    sandbox_id: SandboxId
    pod: str
    """NAMESPACE/NAME."""
    name: str
    attempt: int
    cause: EndCause
    exit_code: int
    signal: int
    """That its first process ended by, going by the exit code; 0 for none."""
    started_at: int
    finished_at: int
    reason: str = ""
    message: str = ""
    pod_problem: str = ""
    """What was wrong with its pod."""
    stop: StopRequest | None = None
    oom: OomKill | None = None
    removed_at: int = 0
    removed_by: StopRequest | None = None
