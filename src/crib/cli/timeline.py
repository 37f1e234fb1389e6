"""`crib timeline`: the stages of a pod's start as bars on one scale of time."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from crib.cli.options import Format
from crib.cli.output import as_dict, clean, document
from crib.stubs.node.v1.node_pb2 import TimelineRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli.options import TimelineOptions
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import Stage, TimelineResponse

_EIGHTHS = " ▏▎▍▌▋▊▉"
MIN_BAR, MAX_BAR, MAX_NAME = 20, 60, 48


async def timeline(session: CliSession, options: TimelineOptions) -> None:
    """Show a pod's stages; NotOffered from runtimes without crib's Node service."""
    async with session.connect() as connection:
        reply = await connection.call(connection.node.Timeline, TimelineRequest(pod=options.pod))
    if options.output is not Format.TABLE:
        document(as_dict(reply), options.output)
        return
    print(f"pod {clean(reply.pod)} ({reply.pod_sandbox_id[:13]})")
    for line in chart(reply, shutil.get_terminal_size((100, 24)).columns):
        print(line)


def chart(reply: TimelineResponse, width: int) -> list[str]:
    """Lines of at most `width` columns: when a stage began, what it took (ms), its name, its bar."""
    stages = list(reply.stages)
    if not stages:
        return ["no stages were recorded"]
    begin = min(stage.started_at for stage in stages)
    end = max(stage.started_at + stage.duration_ns for stage in stages)
    span = max(1, end - begin)
    names = [_name(reply, stage, _depth(stages, index)) for index, stage in enumerate(stages)]
    name_width = min(MAX_NAME, max(map(len, names)))
    bar_width = max(MIN_BAR, min(MAX_BAR, width - name_width - 24))
    lines = [f"{'start':>9}  {'took':>9}  stage"]
    for name, stage in zip(names, stages, strict=True):
        at = stage.started_at - begin
        bar = _bar(at / span, stage.duration_ns / span, bar_width)
        times = f"{at / 1e6:9.1f}  {stage.duration_ns / 1e6:9.1f}"
        lines.append(f"{times}  {name[:name_width]:{name_width}} {bar}".rstrip())
        if stage.outcome not in ("", "ok"):
            lines.append(f"{'':22}{clean(stage.outcome)}")
    lines.append(f"{'':9}  {span / 1e6:9.1f}  ms from the first stage to the end of the last")
    if reply.dropped:
        lines.append(f"{reply.dropped} older stages were dropped")
    return lines


def _depth(stages: Sequence[Stage], index: int) -> int:
    depth, parent = 0, stages[index].parent
    while parent and depth < len(stages):  # a daemon's mistake must not hang us
        depth += 1
        parent = stages[parent - 1].parent if parent <= len(stages) else 0
    return min(depth, 8)


def _name(reply: TimelineResponse, stage: Stage, depth: int) -> str:
    subject = "" if stage.subject == reply.pod_sandbox_id else stage.subject  # that pod is what is shown
    return clean(f"{'  ' * depth}{stage.name} {subject}".rstrip())


def _bar(begin: float, length: float, width: int) -> str:
    """A bar in eighths of a column; the shortest stage is still seen."""
    first = min(int(begin * width), width - 1)
    eighths = max(1, min(round(length * width * 8), (width - first) * 8))
    whole, rest = divmod(eighths, 8)
    return " " * first + "█" * whole + (_EIGHTHS[rest] if rest else "")
