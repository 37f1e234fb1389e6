"""Who may use a volume beside whom (core/v1 PersistentVolumeAccessMode). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from crib.model.errors import WrongState
from crib.model.volumes import AccessMode, PodOfUse, VolumeRecord, VolumeUse
from crib.ports.volumes import KindFacts


def is_read_only(record: VolumeRecord, facts: KindFacts, *, asked: bool) -> bool:
    """Whether a pod gets it read-only: it asked for that, or the volume cannot be had otherwise."""
    return asked or not facts.writable or set(record.spec.access_modes) == {AccessMode.READ_ONLY_MANY}


def refuse_beside(record: VolumeRecord, pod: PodOfUse) -> None:
    """WrongState, naming who has it, where this pod may not use it as well. All pods here are of one node."""
    others = [use for use in record.uses if use.pod.uid != pod.uid]
    if others and set(record.spec.access_modes) == {AccessMode.READ_WRITE_ONCE_POD}:
        mode = AccessMode.READ_WRITE_ONCE_POD
        raise WrongState(f"volume {record.name} is {mode}, and is used by {users(others)}")


def users(uses: Iterable[VolumeUse]) -> str:
    """The pods of these uses, for a person."""
    named = list(dict.fromkeys(f"pod {use.pod} (uid {use.pod.uid})" for use in uses))
    shown = ", ".join(named[:3])
    return shown if len(named) <= 3 else f"{shown} and {len(named) - 3} more"
