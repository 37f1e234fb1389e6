"""Which moves are legal: two tables, and nothing decided anywhere else.

    sandbox    CREATING ─run─► READY ─stop─► NOT_READY ─remove─► REMOVING ─► (gone)
    container  CREATING ─create─► CREATED ─start─► RUNNING ─exit─► EXITED ─remove─► REMOVING ─► (gone)

A noun in CREATING or REMOVING is hidden from lists: it is not yet, or no longer, there for callers.
"""

from __future__ import annotations

from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import WrongState
from crib.model.sandbox import SandboxRecord, SandboxState

_S = SandboxState
_C = ContainerState

SANDBOX_MOVES: dict[str, dict[SandboxState, SandboxState]] = {
    "run": {_S.CREATING: _S.READY},
    "stop": {_S.READY: _S.NOT_READY, _S.NOT_READY: _S.NOT_READY},
    "remove": {
        _S.CREATING: _S.REMOVING,
        _S.READY: _S.REMOVING,
        _S.NOT_READY: _S.REMOVING,
        _S.REMOVING: _S.REMOVING,
    },
    "create container": {_S.READY: _S.READY},
    "update resources": {_S.READY: _S.READY},
    "forward ports": {_S.READY: _S.READY},
}

CONTAINER_MOVES: dict[str, dict[ContainerState, ContainerState]] = {
    "create": {_C.CREATING: _C.CREATED},
    "start": {_C.CREATED: _C.RUNNING},
    "exit": {_C.CREATED: _C.EXITED, _C.RUNNING: _C.EXITED, _C.UNKNOWN: _C.EXITED},
    "stop": {
        _C.CREATED: _C.EXITED,
        _C.RUNNING: _C.EXITED,
        _C.EXITED: _C.EXITED,
        _C.UNKNOWN: _C.EXITED,
    },
    "exec": {_C.RUNNING: _C.RUNNING},
    "attach to": {_C.RUNNING: _C.RUNNING},
    "reopen log": {_C.RUNNING: _C.RUNNING},
    "update": {_C.CREATED: _C.CREATED, _C.RUNNING: _C.RUNNING},
    "remove": {
        _C.CREATING: _C.REMOVING,
        _C.CREATED: _C.REMOVING,
        _C.RUNNING: _C.REMOVING,
        _C.EXITED: _C.REMOVING,
        _C.UNKNOWN: _C.REMOVING,
        _C.REMOVING: _C.REMOVING,
    },
}


def move_sandbox(record: SandboxRecord, verb: str) -> SandboxState:
    """The state that the verb leads to; raises WrongState when it is not legal now."""
    target = SANDBOX_MOVES[verb].get(record.state)
    if target is None:
        raise WrongState(f"cannot {verb} in sandbox {record.id}: it is {record.state}")
    return target


def move_container(record: ContainerRecord, verb: str) -> ContainerState:
    """The state that the verb leads to; raises WrongState when it is not legal now."""
    target = CONTAINER_MOVES[verb].get(record.state)
    if target is None:
        raise WrongState(f"cannot {verb} container {record.id}: it is {record.state}")
    return target


def is_listed(record: SandboxRecord | ContainerRecord) -> bool:
    """Whether callers may see it: what is half-made or half-gone is hidden."""
    return record.state not in ("creating", "removing")
