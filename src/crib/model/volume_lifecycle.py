"""Which moves of volumes, of their uses and of snapshots are legal: as `lifecycle`, for these nouns.

volume, snapshot   CREATING ─create─► READY ─remove─► REMOVING ─► (gone)
use                PUBLISHING ─publish─► PUBLISHED ─unpublish─► UNPUBLISHING ─► (gone)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from crib.model.errors import WrongState
from crib.model.volumes import (
    SnapshotRecord,
    SnapshotState,
    UseState,
    VolumeRecord,
    VolumeState,
    VolumeUse,
)

_V, _U, _S = VolumeState, UseState, SnapshotState


class VolumeVerb(StrEnum):
    """What may change a volume or a snapshot. The value is how errors call it."""

    CREATE = "create"
    REMOVE = "remove"


class UseVerb(StrEnum):
    """What may change a pod's use of a volume."""

    BEGIN = "begin to publish"
    PUBLISH = "publish"
    """Once more, too: what a pod has stays published meanwhile."""
    UNPUBLISH = "unpublish"
    LOSE = "lose"
    """The machine was booted anew: nothing of it is there."""


VOLUME_MOVES: Mapping[VolumeVerb, Mapping[VolumeState, VolumeState]] = {
    VolumeVerb.CREATE: {_V.CREATING: _V.READY},
    VolumeVerb.REMOVE: dict.fromkeys(_V, _V.REMOVING),
}
SNAPSHOT_MOVES: Mapping[VolumeVerb, Mapping[SnapshotState, SnapshotState]] = {
    VolumeVerb.CREATE: {_S.CREATING: _S.READY},
    VolumeVerb.REMOVE: dict.fromkeys(_S, _S.REMOVING),
}
USE_MOVES: Mapping[UseVerb, Mapping[UseState, UseState]] = {
    UseVerb.BEGIN: dict.fromkeys(_U, _U.PUBLISHING),
    UseVerb.PUBLISH: dict.fromkeys((_U.PUBLISHING, _U.PUBLISHED), _U.PUBLISHED),
    UseVerb.UNPUBLISH: dict.fromkeys(_U, _U.UNPUBLISHING),
    UseVerb.LOSE: dict.fromkeys(_U, _U.PUBLISHING),
}


def move_volume(record: VolumeRecord, verb: VolumeVerb) -> VolumeState:
    """The state that the verb leads to; raises WrongState when it is not legal now."""
    target = VOLUME_MOVES[verb].get(record.state)
    if target is None:
        raise WrongState(f"cannot {verb} volume {record.name}: it is {record.state}")
    return target


def move_snapshot(record: SnapshotRecord, verb: VolumeVerb) -> SnapshotState:
    """The same of a snapshot."""
    target = SNAPSHOT_MOVES[verb].get(record.state)
    if target is None:
        raise WrongState(f"cannot {verb} snapshot {record.name}: it is {record.state}")
    return target


def move_use(use: VolumeUse, verb: UseVerb) -> UseState:
    """The same of a pod's use of a volume."""
    target = USE_MOVES[verb].get(use.state)
    if target is None:
        raise WrongState(f"cannot {verb} volume {use.volume!r} of pod {use.pod}: it is {use.state}")
    return target
