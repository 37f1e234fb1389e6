"""`crib timeline --html`: a timeline as one page that needs nothing else, neither script nor network."""

from __future__ import annotations

import html
from datetime import datetime
from typing import TYPE_CHECKING

from crib.cli.output import clean
from crib.cli.session import CommandError
from crib.cli.stretches import OK, RUNNING, DrawnStage, Stretch, after, stretches

if TYPE_CHECKING:
    from crib.stubs.node.v1.node_pb2 import TimelineResponse

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6b7c; --line: #d9e0e7; --back: #ffffff;
  --bar: #7aa7d9; --cpu: #1f5fa8; --bad: #c8402f; --open: #d99a2b }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa7b4; --line: #2d3742;
  --back: #12181f; --bar: #4d7fb3; --cpu: #9cc7f5; --bad: #ee6a5a; --open: #e3b341 } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1.5rem; background: var(--back); color: var(--ink);
  font: 14px/1.5 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1rem; margin: 2rem 0 .4rem }
p, .legend { color: var(--soft); margin: .2rem 0 }
.legend span { margin-right: 1.2rem } .legend i { display: inline-block; width: .9em; height: .9em;
  border-radius: 2px; vertical-align: -.1em; margin-right: .4em }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line) }
td, th { padding: .15rem .6rem .15rem 0 } td.n, th.n { text-align: right; white-space: nowrap; width: 5.5rem }
td.name { white-space: nowrap; width: 1%; padding-right: 1rem } td.why { color: var(--bad); padding-top: 0 }
.lane { position: relative; height: 1rem;
  background: linear-gradient(to right, var(--line) 1px, transparent 1px) 0 0 / 25% 100%;
  border-right: 1px solid var(--line) }
.bar { position: absolute; top: .1rem; bottom: .1rem; min-width: 2px; border-radius: 2px;
  background: var(--bar) }
.bar.bad { background: var(--bad) }
.bar.open { background: repeating-linear-gradient(135deg, var(--open) 0 6px, transparent 6px 10px) }
.cpu { position: absolute; left: 0; top: 0; bottom: 0; border-radius: 2px; background: var(--cpu) }
"""
_LEGEND = (
    ("var(--bar)", "a stage"),
    ("var(--cpu)", "CPU time of its programs"),
    ("var(--bad)", "failed"),
    ("var(--open)", "running"),
)


def write(reply: TimelineResponse, path: str) -> None:
    """Write the page to a file."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(page(reply))
    except OSError as error:
        raise CommandError(f"--html {path}: {error.strerror}") from error


def page(reply: TimelineResponse) -> str:
    """The whole document."""
    title = f"{_text(reply.pod)} ({_text(reply.pod_sandbox_id[:13])})"
    parts = stretches(reply)
    body = "".join(_stretch(part, parts[0].begin) for part in parts) or "<p>No stages were recorded.</p>"
    dropped = f"<p>{reply.dropped} stages of later restarts were dropped.</p>" if reply.dropped else ""
    legend = "".join(f'<span><i style="background:{color}"></i>{word}</span>' for color, word in _LEGEND)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n"
        f'<body><h1>{title}</h1><p>{_text(reply.pod_sandbox_id)}</p><div class="legend">{legend}</div>\n'
        f"{body}{dropped}</body></html>\n"
    )


def _stretch(part: Stretch, first: int) -> str:
    at = datetime.fromtimestamp(part.begin / 1e9).astimezone().isoformat(sep=" ", timespec="milliseconds")
    later = f", {after(part.begin - first)} later" if part.begin > first else ""
    rows = "".join(_row(row, part) for row in part.rows)
    head = (
        '<tr><th>stage</th><th class="n">start, ms</th><th class="n">took, ms</th><th class="n">CPU, ms</th>'
        f"<th>{part.span / 1e6:.1f} ms in all</th></tr>"
    )
    return f"<h2>{at}{later}</h2>\n<table>{head}\n{rows}</table>\n"


def _row(row: DrawnStage, part: Stretch) -> str:
    stage, at = row.stage, row.stage.started_at - part.begin
    took, cpu = stage.duration_ns / 1e6, stage.program_cpu_ns / 1e6
    kind = {OK: "", RUNNING: " open"}.get(stage.outcome, " bad")
    left, width = 100 * at / part.span, 100 * stage.duration_ns / part.span
    share = min(100.0, 100 * stage.program_cpu_ns / stage.duration_ns) if stage.duration_ns else 0.0
    inner = f'<span class="cpu" style="width:{share:.2f}%"></span>' if share else ""
    ran = (
        f", {stage.program}: {stage.program_ns / 1e6:.1f} ms, of it {cpu:.1f} ms CPU" if stage.program else ""
    )
    hint = _text(f"{row.name}: {took:.1f} ms{ran}, {stage.outcome}")
    line = (
        f'<tr><td class="name" style="padding-left:{1.2 * row.depth:.1f}rem">{_text(row.name)}</td>'
        f'<td class="n">{at / 1e6:.1f}</td><td class="n">{took:.1f}</td>'
        f'<td class="n">{f"{cpu:.1f}" if stage.program else ""}</td>'
        f'<td><div class="lane"><div class="bar{kind}" title="{hint}" '
        f'style="left:{left:.3f}%;width:{width:.3f}%">{inner}</div></div></td></tr>\n'
    )
    if kind == " bad":
        line += f'<tr><td class="why" colspan="5">{_text(stage.outcome)}</td></tr>\n'
    return line


def _text(text: str) -> str:
    return html.escape(clean(text))
