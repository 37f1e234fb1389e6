"""What to do with each record after a restart: a pure table.

record says           the world says                                   do
CREATING, REMOVING    anything                                         TEARDOWN
CREATED               created, monitor alive                           KEEP
RUNNING               running, monitor alive                           KEEP
CREATED, RUNNING      an exit file                                     MARK_EXITED with its code and time
CREATED, RUNNING      gone or stopped, no exit file, monitor alive     KEEP: the exit file is about to come
CREATED, RUNNING      gone or stopped, no exit file, no monitor        MARK_EXITED 255, lost
CREATED               running (died between start and record)         KEEP, as RUNNING
UNKNOWN               created, running (an earlier look failed)        KEEP, as CREATED, RUNNING
CREATED, RUNNING      there, monitor dead                              KILL, MARK_EXITED 255, lost
EXITED, abandoned     anything                                         KEEP
anything              another boot                                     MARK_EXITED 255, lost
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from crib.model.container import ContainerRecord, ContainerState, Exit
from crib.model.lifecycle import is_listed
from crib.ports.containers import Observation

LOST = 255
"""Exit code that stands for a lost one."""


class Action(Enum):
    """What recovery does with a container."""

    KEEP = auto()
    KEEP_RUNNING = auto()
    KEEP_CREATED = auto()
    MARK_EXITED = auto()
    KILL = auto()
    TEARDOWN = auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """`exit` comes with MARK_EXITED and KILL."""

    action: Action
    exit: Exit | None = None


def decide_unseen(record: ContainerRecord, *, same_boot: bool, now: int) -> Decision | None:
    """What can be decided without looking; None when the world must be observed."""
    if not is_listed(record):
        return Decision(Action.TEARDOWN)
    if record.state is ContainerState.EXITED or record.abandoned:
        return Decision(Action.KEEP)
    if not same_boot:
        return Decision(Action.MARK_EXITED, Exit(record.id, LOST, now, lost=True))
    return None


def decide(record: ContainerRecord, seen: Observation, now: int) -> Decision:
    """What to do with a container of this boot that was not known to have ended."""
    if seen.exit is not None:
        return Decision(Action.MARK_EXITED, seen.exit)
    lost = Exit(record.id, LOST, now, lost=True)
    if seen.status in ("gone", "stopped"):
        return Decision(Action.KEEP) if seen.monitor_alive else Decision(Action.MARK_EXITED, lost)
    if not seen.monitor_alive:
        return Decision(Action.KILL, lost)
    if record.state is not ContainerState.RUNNING and seen.status == "running":
        return Decision(Action.KEEP_RUNNING)
    if record.state is ContainerState.UNKNOWN and seen.status == "created":
        return Decision(Action.KEEP_CREATED)
    return Decision(Action.KEEP)
