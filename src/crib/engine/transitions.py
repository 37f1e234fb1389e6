"""Which events there are when a row changes: each start and each end is in one place, told once.

They are kept in one commit with the row, so that a daemon that is killed has told either both or neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crib.model.container import ContainerRecord
from crib.model.events import EventKind, NodeEvent
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.ports.clocks import Clock

_TEXT_LIMIT = 1000
"""Characters that are kept of a reason or message."""


def sandbox_events(
    before: SandboxRecord | None, after: SandboxRecord | None, clock: Clock
) -> Iterator[NodeEvent]:
    """`before`: the row as it was, None where there was none; `after` is None where it goes."""

    def event(action: str, text: str = "") -> NodeEvent:
        row = after or before
        assert row is not None
        return NodeEvent(
            EventKind.POD, action, clock(), row.id, row.id, pod_name(row), text=text[:_TEXT_LIMIT]
        )

    if before is None:
        return
    if after is None:
        if before.state is SandboxState.CREATING:
            return  # it never was
        if not before.released:
            yield event("stopped", "removed")
        yield event("deleted")
        return
    if before.state is SandboxState.CREATING and after.state is SandboxState.READY:
        yield event("started", ", ".join(after.network.addresses) if after.network else "host network")
    if before.state is SandboxState.READY and after.state is SandboxState.NOT_READY and after.reason:
        yield event("abandoned" if after.abandoned else "lost", after.reason)
    if before.network and after.network and before.network.addresses != after.network.addresses:
        yield event("addresses changed", ", ".join(after.network.addresses))
    if after.released and not before.released:
        yield event("stopped", after.reason)


def container_events(
    before: ContainerRecord | None,
    after: ContainerRecord | None,
    sandbox: SandboxRecord | None,
    clock: Clock,
) -> Iterator[NodeEvent]:
    """As for sandboxes; `sandbox` is the container's, where that is still on record."""

    def event(action: str, at: int = 0, text: str = "", exit_code: int | None = None) -> NodeEvent:
        row = after or before
        assert row is not None
        told = container_event(action, row, sandbox, at or clock(), text)
        return told if exit_code is None else replace(told, exit_code=exit_code)

    if before is None:
        return
    if after is None:
        if before.started_at and not before.finished_at:
            yield event("stopped", text="removed before its end was known")
        if before.is_made:
            yield event("deleted")
        return
    if after.is_made and not before.is_made:
        yield event("created", text=after.config.user_specified_image or after.config.image)
    if after.started_at and not before.started_at:
        yield event("started", after.started_at)
    if after.abandoned and not before.abandoned:
        yield event("abandoned", text=after.message)
    if after.finished_at and not before.finished_at:
        text = ": ".join(filter(None, (after.reason, after.message)))
        yield event("stopped", after.finished_at, text, after.exit_code)


def container_event(
    action: str, row: ContainerRecord, sandbox: SandboxRecord | None, at: int, text: str
) -> NodeEvent:
    """Of the container, with its names."""
    pod = pod_name(sandbox) if sandbox is not None else ""
    about = text[:_TEXT_LIMIT]
    return NodeEvent(EventKind.CONTAINER, action, at, row.id, row.sandbox_id, pod, row.config.name, about)


def pod_name(row: SandboxRecord) -> str:
    """NAMESPACE/NAME."""
    return f"{row.config.metadata.namespace}/{row.config.metadata.name}"
