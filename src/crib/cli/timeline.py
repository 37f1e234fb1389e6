"""`crib timeline`: the stages of a pod as bars, each stretch of work on a scale of its own."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from crib.cli import tables
from crib.cli.forms import Form, Format
from crib.cli.output import as_dict, clean, document, tell
from crib.cli.session import CommandError
from crib.cli.stretches import OK, DrawnStage, Stretch, after, stretches
from crib.client import node

if TYPE_CHECKING:
    from crib.cli.history_options import TimelineOptions
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import TimelineResponse

_EIGHTHS = " ▏▎▍▌▋▊▉"
MIN_BAR, MAX_BAR, MAX_NAME = 12, 60, 48
_NUMBERS = 29
"""Columns of the three numbers, with what parts them."""


async def timeline(session: CliSession, options: TimelineOptions) -> None:
    """Show timelines; NotOffered from runtimes without crib's Node service."""
    pods = options.pods or []
    wanted = 0 if options.slowest else 2 if options.compare else 1
    if (options.slowest and options.compare) or len(pods) != wanted:
        raise CommandError("give one POD, or --compare with two, or --slowest with none", 2)
    if options.html and wanted != 1:
        raise CommandError("--html is of one pod", 2)
    form: Form = Format.JSON if options.json else options.output
    async with session.connect() as connection:
        if options.slowest:
            from crib.cli import timeline_reports

            found = [one async for one in node.timelines(connection)]
            timeline_reports.slowest(found, options, form)
            return
        replies = [await node.timeline(connection, pod) for pod in pods]
    if options.compare:
        from crib.cli import timeline_reports

        timeline_reports.compare(replies[0], replies[1], form)
    elif options.html:
        from crib.cli import timeline_page

        timeline_page.write(replies[0], options.html)
        tell(f"wrote {options.html}")
    elif form is not Format.TABLE:
        document(as_dict(replies[0]), form)
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        pod, identifier = clean(replies[0].pod), replies[0].pod_sandbox_id[:13]
        if sys.stdout.isatty():
            pod = tables.fitted(pod, width - len(f"pod  ({identifier})"), tables.Shortening.END)
        print(f"pod {pod} ({identifier})")
        for line in chart(replies[0], width):
            print(line)


def chart(reply: TimelineResponse, width: int) -> list[str]:
    """Lines of at most `width` columns, from 60: when a stage began, what it took and its programs' CPU time
    (ms), its name, its bar.
    """
    parts = stretches(reply)
    if not parts:
        return ["no stages were recorded"]
    longest = max(len(row.name) + 2 * row.depth for part in parts for row in part.rows)
    names = max(5, min(MAX_NAME, longest, width - _NUMBERS - 1 - MIN_BAR))
    bars = max(MIN_BAR, min(MAX_BAR, width - _NUMBERS - 1 - names))
    lines = [f"{'start':>9} {'took':>9} {'cpu':>7}  stage"]
    for number, part in enumerate(parts):
        if number:
            lines.append(f"--- {after(part.begin - parts[0].begin)} later")
        for row in part.rows:
            lines += _lines(row, part, names, bars, width)
    span = parts[0].span
    lines.append(f"{'':9} {_ms(span, 9)}{'':9} in all")
    if reply.dropped:
        lines.append(f"{reply.dropped} stages of later restarts were dropped")
    return lines


def _lines(row: DrawnStage, part: Stretch, names: int, bars: int, width: int) -> list[str]:
    stage = row.stage
    at = stage.started_at - part.begin
    cpu = _ms(stage.program_cpu_ns, 7) if stage.program else " " * 7
    shown = ("  " * row.depth + row.name)[:names]
    drawn = _bar(at / part.span, stage.duration_ns / part.span, bars)
    first = f"{_ms(at, 9)} {_ms(stage.duration_ns, 9)} {cpu}  {shown:{names}} {drawn}".rstrip()
    return [first] if stage.outcome in ("", OK) else [first, f"{'':20}{clean(stage.outcome)}"[:width]]


def _ms(nanoseconds: int, width: int) -> str:
    """Milliseconds, or seconds where there is no room for so many."""
    text = f"{nanoseconds / 1e6:{width}.1f}"
    return text if len(text) <= width else f"{nanoseconds / 1e9:{width - 1}.0f}s"


def _bar(begin: float, length: float, width: int) -> str:
    """A bar in eighths of a column; the shortest stage is still seen."""
    first = min(int(begin * width), width - 1)
    eighths = max(1, min(round(length * width * 8), (width - first) * 8))
    whole, rest = divmod(eighths, 8)
    return " " * first + "█" * whole + (_EIGHTHS[rest] if rest else "")
