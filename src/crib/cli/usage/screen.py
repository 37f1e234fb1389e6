"""The screen of `crib top`: drawn anew at each reading, key and change of size."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from crib.cli import terminal
from crib.cli.output import clean
from crib.cli.usage.columns import UsageTable, amount, cores
from crib.cli.usage.keys import HELP, KeyReader, View, press
from crib.cli.usage.rows import Meter, UsageRow, arrange
from crib.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crib.client.usage import UsageClient

HEAD_LINES, FOOT_LINES = 3, 1
"""Lines that are no rows: the runtime, the sums and the titles; the keys."""
TYPED_BYTES = 1024
_BUSY, _FULL, _STALLED = 0.9, 90.0, 10.0
"""Of a core; percent of a memory limit; percent of time. From there on a row is marked."""


@dataclass(frozen=True, slots=True)
class Picture:
    """All that a frame shows but the view."""

    title: str
    rows: Sequence[UsageRow] = ()
    problem: str = ""
    """Why there are no newer figures."""


def frame(picture: Picture, view: View, width: int, height: int) -> tuple[Text, int]:
    """The lines of one frame, at most `width` by `height`, and the first row that it shows."""
    if view.help:
        return _lines([_help_line(keys, what) for keys, what in HELP], height), view.offset
    arranged = arrange(picture.rows, view.shown)
    room = max(1, height - HEAD_LINES - FOOT_LINES)
    offset = max(0, min(view.offset, len(arranged) - room))
    table = UsageTable.of(arranged, width, view.shown.sort, view.shown.layout)
    titles = Text()
    for text, column in table.head():
        is_sorted = column is not None and column.sorts is view.shown.sort
        titles.append(text, style="bold reverse" if is_sorted else "bold")
    lines = [_title(picture, view), _sums(picture.rows), titles]
    lines += [Text(table.line(row), style=_style(row)) for row in arranged[offset : offset + room]]
    lines += [Text()] * (height - FOOT_LINES - len(lines))
    lines.append(_foot(view, len(arranged), offset, room))
    for line in lines:
        line.truncate(width)
    return _lines(lines, height), offset


def _lines(lines: Sequence[Text], height: int) -> Text:
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines[:height])


def _title(picture: Picture, view: View) -> Text:
    text = Text(clean(picture.title), style="dim")
    state = " paused" if view.paused else f" every {view.interval:g} s"
    text.append(state, style="bold yellow" if view.paused else "")
    if picture.problem:
        text.append(f"  {clean(picture.problem)}", style="bold red")
    return text


def _sums(rows: Sequence[UsageRow]) -> Text:
    cpus = [row.figures.cpu for row in rows if row.figures.cpu is not None]
    memory = [row.figures.memory for row in rows if row.figures.memory is not None]
    containers = sum(len(row.containers) for row in rows)
    text = Text(f"{_counted(len(rows), 'pod')}, {_counted(containers, 'container')}")
    text.append(f"   CPU {cores(sum(cpus) if cpus else None)}")
    text.append(f"   memory {amount(sum(memory) if memory else None)}")
    return text


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _foot(view: View, count: int, offset: int, room: int) -> Text:
    if view.typing:
        return Text(f"filter: {clean(view.shown.text)}▏", style="reverse")
    text = Text("q quit  ? help  t tree  / filter  c m i n p sort", style="dim")
    if view.shown.text:
        text = Text(f"filter: {clean(view.shown.text)}  (Esc removes it)", style="yellow")
    if count > room:
        text.append(f"  {offset + 1}-{min(count, offset + room)} of {count}")
    return text


def _help_line(keys: str, what: str) -> Text:
    return Text.assemble((f"{keys:>9}", "bold"), f"  {what}")


def _style(row: UsageRow) -> str:
    figures = row.figures
    share, pressure = figures.memory_share, figures.pressure
    if (share or 0) >= _FULL or (pressure.memory or 0) >= _STALLED:
        return "red"
    if (figures.cpu or 0) >= _BUSY or max(pressure.cpu or 0, pressure.io or 0) >= _STALLED:
        return "yellow"
    return "" if row.container else "bold"


class Screen:
    """Shows figures until the person leaves."""

    def __init__(self, reader: UsageClient, picture: Picture, meter: Meter, view: View) -> None:
        """`picture` has the first figures, which `meter` knows."""
        self._reader = reader
        self._meter = meter
        self._picture = picture
        self._view = view
        self._keys = KeyReader()
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        """The interval has become shorter, or a pause is over."""

    async def run(self, console: Console) -> None:
        """Until a key says so. Keys come from standard input, if that is a terminal."""
        loop = asyncio.get_running_loop()
        descriptor = terminal.terminal_of(sys.stdin.fileno())
        loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
        reading = asyncio.ensure_future(self._read_again())
        reading.add_done_callback(lambda _: self._changed.set())  # it ends by a fault of ours only
        try:
            with (
                terminal.single_keys(descriptor),
                self._pressed(descriptor, console),
                Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live,
            ):
                while not self._view.left:
                    self._draw(live, console)
                    await self._changed.wait()
                    self._changed.clear()
                    if reading.done():
                        reading.result()
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _draw(self, live: Live, console: Console) -> None:
        width, height = console.size
        text, offset = frame(self._picture, self._view, width, height)
        self._view = replace(self._view, offset=offset)
        live.update(text, refresh=True)

    @contextlib.contextmanager
    def _pressed(self, descriptor: int | None, console: Console) -> Iterator[None]:
        if descriptor is None:
            yield
            return
        loop = asyncio.get_running_loop()

        def receive() -> None:
            try:
                typed = os.read(descriptor, TYPED_BYTES)
            except OSError:
                typed = b""
            page = max(1, console.size.height - HEAD_LINES - FOOT_LINES)
            view = self._view
            for key in self._keys.read(typed):
                view = press(view, key, page)
            self._show(view if typed else replace(view, left=True))  # without its terminal it has no use

        loop.add_reader(descriptor, receive)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)

    def _show(self, view: View) -> None:
        if view.interval < self._view.interval or (self._view.paused and not view.paused):
            self._hurry.set()
        self._view = view
        self._changed.set()

    async def _read_again(self) -> None:
        while True:
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._view.interval):
                    await self._hurry.wait()
            if self._view.paused:
                continue
            try:
                rows = self._meter.rows(await self._reader.read())
                self._picture = replace(self._picture, rows=rows, problem="")
            except ClientError as error:
                self._picture = replace(self._picture, problem=str(error))
            self._changed.set()
