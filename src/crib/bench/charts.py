"""A bench's outcome as a page of charts, which needs nothing else, and as a picture of that page.

A chart is a metric: a bar for each runtime up to the median, a line to the 99th percentile, a mark at the
smallest sample. The picture is made by a browser without a window, if there is one.
"""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from crib.bench.figures import figures, machine
from crib.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crib.bench.figures import Report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PICTURE_LIMIT = 60.0
"""Seconds for the browser."""
_COLOURS = ("#2f6fb3", "#d07c2c", "#3f8f5f", "#a44a8a", "#6b7280")
_WIDTH, _NAME, _VALUES, _BAR, _GAP = 860, 130, 170, 20, 8
"""Pixels."""
_STYLE = """
body { margin: 2rem auto; max-width: 60rem; padding: 0 1.5rem; font: 14px/1.5 system-ui, sans-serif;
  color: #1c2733; background: #fff }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1rem; margin: 1.6rem 0 .2rem; font-weight: 600 }
p { color: #5b6b7c; margin: .2rem 0 } .warning { color: #b4541f } svg { display: block; max-width: 100% }
text { font: 13px system-ui, sans-serif; fill: #1c2733 } .soft { fill: #5b6b7c }
"""


def write(report: Report, html_file: str, png_file: str) -> None:
    """Write what is asked for. ClientError without a browser, or when a file cannot be written."""
    if not (html_file or png_file):
        return
    text = page(report)
    try:
        if html_file:
            with open(html_file, "w", encoding="utf-8") as file:
                file.write(text)
        if png_file:
            _picture(text, os.path.abspath(png_file), height=_height(report))
    except OSError as error:
        raise ClientError(f"charts: {error.strerror} {error.filename or ''}".rstrip()) from error


def page(report: Report) -> str:
    """The whole document."""
    about = machine()
    where = f"Linux {about['kernel']}, {about['architecture']}, {about['cpus']} CPUs"
    warnings = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in report.warnings)
    charts = "".join(
        f"<h2>{html.escape(metric)}, {html.escape(unit)}</h2>{chart(by_name, report.names)}"
        for (metric, unit), by_name in report.samples.values.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>crib bench</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>crib bench</h1><p>{html.escape(where)}. Bars are "
        "medians, lines reach to the 99th percentile, marks are the smallest sample.</p>"
        f"{warnings}\n{charts}</body></html>\n"
    )


def chart(by_name: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """One metric as SVG, in the order of `names`."""
    rows = [
        (number, name, figures(list(by_name[name]))) for number, name in enumerate(names) if name in by_name
    ]
    most = max((found.p99 for _, _, found in rows), default=0.0) or 1.0
    scale = (_WIDTH - _NAME - _VALUES) / most
    parts = []
    for place, (number, name, found) in enumerate(rows):
        top = place * (_BAR + _GAP)
        middle = top + _BAR / 2
        end, low, high = (_NAME + value * scale for value in (found.median, found.low, found.p99))
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(
            f'<text x="0" y="{middle + 5:.0f}">{html.escape(name)}</text>'
            f'<rect x="{_NAME}" y="{top}" width="{end - _NAME:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>'
            f'<path d="M{end:.1f} {middle:.1f}H{high:.1f}M{high:.1f} {top + 4}v{_BAR - 8}'
            f'M{low:.1f} {top}v{_BAR}" stroke="#1c2733" fill="none"/>'
            f'<text class="soft" x="{high + 8:.0f}" y="{middle + 5:.0f}">'
            f"{found.median:.4g} ({found.p99:.4g})</text>"
        )
    return (
        f'<svg width="{_WIDTH}" height="{len(rows) * (_BAR + _GAP)}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>\n'
    )


def _height(report: Report) -> int:
    """Pixels that the page needs, generously: a picture has no scroll bar."""
    bars = sum(len(by_name) for by_name in report.samples.values.values())
    return 200 + 30 * len(report.warnings) + 60 * len(report.samples.values) + bars * (_BAR + _GAP)


def browser() -> str | None:
    """The path of a program that can make pictures of pages."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _picture(text: str, path: str, height: int) -> None:
    program = browser()
    if program is None:
        raise ClientError(f"--png needs one of {', '.join(BROWSERS)} on PATH; --html needs none")
    with tempfile.TemporaryDirectory(prefix="crib-charts-") as directory:
        source = os.path.join(directory, "page.html")
        with open(source, "w", encoding="utf-8") as file:
            file.write(text)
        command = [
            program,
            "--headless",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={directory}/p",
        ]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # its sandbox refuses root; the page is ours and loads nothing
        command += [f"--window-size=1000,{height}", f"--screenshot={path}", f"file://{source}"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PICTURE_LIMIT, check=False)
        except subprocess.TimeoutExpired as error:
            raise ClientError(f"--png: {program} did not end within {PICTURE_LIMIT:.0f} s") from error
    if done.returncode or not os.path.exists(path):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ClientError(
            f"--png: {program} ended with {done.returncode}: {said[-1] if said else 'no picture'}"
        )
