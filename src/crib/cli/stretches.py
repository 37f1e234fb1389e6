"""The stages of a pod in stretches of work: what `crib timeline` draws, on paper and in a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli.output import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.stubs.node.v1.node_pb2 import Stage, TimelineResponse

PAUSE = 2.0
"""Seconds without any work that part two stretches: a start, a restart, an end."""
OK, RUNNING = "ok", "running"


@dataclass(frozen=True, slots=True)
class DrawnStage:
    """A stage, as it is drawn."""

    stage: Stage
    depth: int
    name: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """Work without a long pause in it: its stages, and when they were (nanoseconds since the epoch)."""

    rows: Sequence[DrawnStage]
    begin: int
    end: int

    @property
    def span(self) -> int:
        """Nanoseconds, never none."""
        return max(1, self.end - self.begin)


def stretches(reply: TimelineResponse) -> list[Stretch]:
    """The stages in the order in which they began, parted where nothing was under way for `PAUSE`."""
    found: list[Stretch] = []
    rows: list[DrawnStage] = []
    begin = end = 0
    for index, stage in enumerate(reply.stages):
        if rows and stage.started_at > end + PAUSE * 1e9:
            found.append(Stretch(tuple(rows), begin, end))
            rows = []
        begin = min(begin, stage.started_at) if rows else stage.started_at
        end = max(end if rows else 0, stage.started_at + stage.duration_ns)
        depth = _depth(reply.stages, index)
        rows.append(DrawnStage(stage, depth, name(stage, reply.pod_sandbox_id)))
    return [*found, Stretch(tuple(rows), begin, end)] if rows else found


def after(nanoseconds: int) -> str:
    """A time as people say it: 4.2 s, 3 min, 2 h, 5 d."""
    seconds = nanoseconds / 1e9
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def name(stage: Stage, sandbox: str) -> str:
    """Of the stage with what it was for; the pod itself is not named."""
    subject = "" if stage.subject == sandbox else stage.subject
    return clean(f"{stage.name} {subject}".rstrip())


def _depth(stages: Sequence[Stage], index: int) -> int:
    depth, parent = 0, stages[index].parent
    while parent and depth < len(stages):  # a daemon's mistake must not hang us
        depth += 1
        parent = stages[parent - 1].parent if parent <= len(stages) else 0
    return min(depth, 8)
