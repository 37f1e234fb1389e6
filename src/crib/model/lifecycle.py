"""Which moves are legal: two tables, and nothing decided anywhere else.

The way of most:

    sandbox    CREATING ─run─► READY ─stop─► NOT_READY ─remove─► REMOVING ─► (gone)
    container  CREATING ─create─► CREATED ─start─► RUNNING ─exit─► EXITED ─remove─► REMOVING ─► (gone)

A record begins in CREATING; every later state of it comes from here (`tests/architecture/test_lifecycle.py`).
A noun in CREATING or REMOVING is hidden from lists: it is not yet, or no longer, there for callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import WrongState
from crib.model.sandbox import SandboxRecord, SandboxState

_S = SandboxState
_C = ContainerState


class SandboxVerb(StrEnum):
    """What may change a pod sandbox, or depends on its state. The value is how errors call it."""

    RUN = "run"
    STOP = "stop"
    REMOVE = "remove"
    LOSE = "lose"
    """Its namespaces, its /dev/shm or its infra process are gone, or the machine was booted anew."""
    RELEASE = "release"
    """What it holds was given back, or as much of it as could be: what is left is for the next try."""
    DOUBT = "doubt"
    """Recovery could not finish what had begun with it."""
    ABANDON = "abandon"
    CREATE_CONTAINER = "create container"
    UPDATE = "update resources"
    FORWARD = "forward ports"
    CHECKPOINT = "checkpoint containers"


class ContainerVerb(StrEnum):
    """What may change a container, or depends on its state. The value is how errors call it."""

    CREATE = "create"
    START = "start"
    FAIL_START = "fail to start"
    EXIT = "exit"
    """Its first process has ended, also if that was found out later and its exit code is lost."""
    STOP = "stop"
    REMOVE = "remove"
    FAIL_REMOVE = "fail to remove"
    DOUBT = "doubt"
    """Recovery could not find out how it is."""
    FIND_CREATED = "find created"
    """Recovery could, after an earlier one could not."""
    FIND_RUNNING = "find running"
    """The same; or the daemon ended between a start and its record."""
    ABANDON = "abandon"
    EXEC = "exec"
    ATTACH = "attach to"
    REOPEN_LOG = "reopen log"
    UPDATE = "update"
    CHECKPOINT = "checkpoint"


SANDBOX_MOVES: Mapping[SandboxVerb, Mapping[SandboxState, SandboxState]] = {
    SandboxVerb.RUN: {_S.CREATING: _S.READY},
    SandboxVerb.STOP: {_S.READY: _S.NOT_READY, _S.NOT_READY: _S.NOT_READY},
    SandboxVerb.REMOVE: dict.fromkeys(_S, _S.REMOVING),
    SandboxVerb.LOSE: {_S.READY: _S.NOT_READY, _S.NOT_READY: _S.NOT_READY},
    SandboxVerb.RELEASE: dict.fromkeys(_S, _S.NOT_READY),
    SandboxVerb.DOUBT: {_S.CREATING: _S.NOT_READY, _S.REMOVING: _S.NOT_READY},
    SandboxVerb.ABANDON: dict.fromkeys(_S, _S.NOT_READY),
    SandboxVerb.CREATE_CONTAINER: {_S.READY: _S.READY},
    SandboxVerb.UPDATE: {_S.READY: _S.READY},
    SandboxVerb.FORWARD: {_S.READY: _S.READY},
    SandboxVerb.CHECKPOINT: {_S.READY: _S.READY},
}

CONTAINER_MOVES: Mapping[ContainerVerb, Mapping[ContainerState, ContainerState]] = {
    ContainerVerb.CREATE: {_C.CREATING: _C.CREATED},
    ContainerVerb.START: {_C.CREATED: _C.RUNNING},
    ContainerVerb.FAIL_START: {_C.CREATED: _C.EXITED},
    ContainerVerb.EXIT: dict.fromkeys((_C.CREATED, _C.RUNNING, _C.UNKNOWN), _C.EXITED),
    ContainerVerb.STOP: dict.fromkeys((_C.CREATED, _C.RUNNING, _C.EXITED, _C.UNKNOWN), _C.EXITED),
    ContainerVerb.REMOVE: dict.fromkeys(_C, _C.REMOVING),
    ContainerVerb.FAIL_REMOVE: dict.fromkeys((_C.EXITED, _C.UNKNOWN, _C.REMOVING), _C.UNKNOWN),
    ContainerVerb.DOUBT: dict.fromkeys((_C.CREATING, _C.CREATED, _C.RUNNING, _C.REMOVING), _C.UNKNOWN),
    ContainerVerb.FIND_CREATED: {_C.UNKNOWN: _C.CREATED},
    ContainerVerb.FIND_RUNNING: {_C.CREATED: _C.RUNNING, _C.UNKNOWN: _C.RUNNING},
    ContainerVerb.ABANDON: {**dict.fromkeys(_C, _C.UNKNOWN), _C.EXITED: _C.EXITED},
    ContainerVerb.EXEC: {_C.RUNNING: _C.RUNNING},
    ContainerVerb.ATTACH: {_C.RUNNING: _C.RUNNING},
    ContainerVerb.REOPEN_LOG: {_C.RUNNING: _C.RUNNING},
    ContainerVerb.UPDATE: {_C.CREATED: _C.CREATED, _C.RUNNING: _C.RUNNING},
    ContainerVerb.CHECKPOINT: {_C.RUNNING: _C.RUNNING},
}


def move_sandbox(record: SandboxRecord, verb: SandboxVerb) -> SandboxState:
    """The state that the verb leads to; raises WrongState when it is not legal now."""
    target = SANDBOX_MOVES[verb].get(record.state)
    if target is None:
        raise WrongState(f"cannot {verb} in sandbox {record.id}: it is {record.state}")
    return target


def move_container(record: ContainerRecord, verb: ContainerVerb) -> ContainerState:
    """The state that the verb leads to; raises WrongState when it is not legal now."""
    target = CONTAINER_MOVES[verb].get(record.state)
    if target is None:
        raise WrongState(f"cannot {verb} container {record.id}: it is {record.state}")
    return target


def is_listed(record: SandboxRecord | ContainerRecord) -> bool:
    """Whether callers may see it: what is half-made or half-gone is hidden."""
    return record.state not in ("creating", "removing")
