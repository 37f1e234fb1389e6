"""`crib timeline --slowest` and `--compare`: tables over several timelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crib.cli.forms import Form, Format
from crib.cli.history_options import Slowest
from crib.cli.output import document, table
from crib.cli.stretches import name, stretches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crib.cli.history_options import TimelineOptions
    from crib.stubs.node.v1.node_pb2 import Stage, TimelineResponse


def slowest(found: Sequence[TimelineResponse], options: TimelineOptions, form: Form) -> None:
    """The pods whose start took longest, or the longest stages that are no more than the sum of others."""
    rows = _pods(found) if options.slowest is Slowest.PODS else _stages(found)
    rows.sort(key=lambda row: -float(row["ms"]))
    rows = rows[: options.number]
    if form is not Format.TABLE:
        document(rows, form)
        return
    columns = list(rows[0]) if rows else ["ms", "pod"]
    table([column.upper() for column in columns], [[_cell(row[key]) for key in columns] for row in rows])


def _pods(found: Iterable[TimelineResponse]) -> list[dict[str, Any]]:
    """The first stretch of each, and the stage that took most of it."""
    rows = []
    for reply in found:
        for part in stretches(reply)[:1]:
            leaves = _leaves([row.stage for row in part.rows])  # places are those of the first stretch too
            worst = max(leaves, key=lambda stage: stage.duration_ns)
            rows.append(
                {
                    "ms": part.span / 1e6,
                    "pod": reply.pod,
                    "id": reply.pod_sandbox_id[:13],
                    "most in": name(worst, reply.pod_sandbox_id),
                    "of which": worst.duration_ns / 1e6,
                }
            )
    return rows


def _stages(found: Iterable[TimelineResponse]) -> list[dict[str, Any]]:
    return [
        {
            "ms": stage.duration_ns / 1e6,
            "cpu": stage.program_cpu_ns / 1e6,
            "stage": name(stage, reply.pod_sandbox_id),
            "pod": reply.pod,
            "outcome": stage.outcome,
        }
        for reply in found
        for stage in _leaves(reply.stages)
    ]


def _leaves(stages: Sequence[Stage]) -> list[Stage]:
    """Those that no other is a part of."""
    parents = {stage.parent for stage in stages}
    return [stage for place, stage in enumerate(stages, 1) if place not in parents]


def compare(one: TimelineResponse, other: TimelineResponse, form: Form) -> None:
    """The stages of both in one table, the greatest difference first. Repeated stages are added up."""
    first, second = _sums(one), _sums(other)
    rows = [
        {
            "stage": key,
            "a": first.get(key),
            "b": second.get(key),
            "difference": (second.get(key) or 0.0) - (first.get(key) or 0.0),
        }
        for key in first | second
    ]
    rows.sort(key=lambda row: -abs(float(row["difference"] or 0)))
    if form is not Format.TABLE:
        document({"a": one.pod_sandbox_id, "b": other.pod_sandbox_id, "stages": rows}, form)
        return
    print(f"a  {one.pod} ({one.pod_sandbox_id[:13]})\nb  {other.pod} ({other.pod_sandbox_id[:13]})")
    cells = [
        (str(row["stage"]), _cell(row["a"]), _cell(row["b"]), f"{row['difference']:+.1f}") for row in rows
    ]
    table(("STAGE", "A MS", "B MS", "B - A"), cells)


def _sums(reply: TimelineResponse) -> dict[str, float]:
    """Milliseconds by the name of the stage and what it was for. The pod's own name is no difference."""
    sums: dict[str, float] = {}
    own = (reply.pod_sandbox_id, reply.pod.partition("/")[2])
    for stage in reply.stages:
        key = stage.name if stage.subject in own else name(stage, "")
        sums[key] = sums.get(key, 0.0) + stage.duration_ns / 1e6
    return sums


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
