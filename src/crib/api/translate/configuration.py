"""How the configuration is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crib.model.configuration import ChangedKey, Reloaded, ShownConfiguration
from crib.stubs.node.v1 import node_pb2 as pb


def encode_shown(shown: ShownConfiguration) -> pb.ShowConfigResponse:
    """The settings that hold."""
    return pb.ShowConfigResponse(
        keys=(
            pb.ConfigKey(
                key=one.key,
                value=one.value,
                default=one.default,
                origin=one.origin,
                needs_restart=not one.is_live,
            )
            for one in shown.keys
        ),
        files=shown.files,
        waiting=_changes(shown.waiting),
        deprecated=shown.deprecated,
        faults=shown.faults,
    )


def encode_reloaded(done: Reloaded) -> pb.ReloadConfigResponse:
    """What a reload did."""
    return pb.ReloadConfigResponse(
        changed=_changes(done.changed), waiting=_changes(done.waiting), faults=done.faults
    )


def _changes(changes: Iterable[ChangedKey]) -> Iterator[pb.ConfigChange]:
    return (pb.ConfigChange(key=one.key, before=one.before, after=one.after) for one in changes)
