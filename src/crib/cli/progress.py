"""Pulls and imports with bars on a terminal, elsewhere with a line for what began or ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from crib.cli import colours, tables
from crib.cli.output import clean, short_id, size
from crib.cli.session import say
from crib.client import images
from crib.client.images import Pulled
from crib.stubs.node.v1.node_pb2 import ImportProgress, PullProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from crib.client import Connection
    from crib.stubs.node.v1.node_pb2 import ImportedImage, LayerProgress
    from crib.stubs.runtime.v1.api_pb2 import AuthConfig


MIN_NAME = 16
"""Columns of the terminal that the name of an image keeps."""
MIN_BAR, MAX_BAR, AROUND_BAR, AMOUNT = 6, 30, 60, 20
"""Columns of the terminal: of a bar, of what is beside it, and of the numbers after it."""
_ENDS = ("done", "present", "failed")
"""Stages of a layer after which nothing more comes."""


class Bars(Protocol):
    """Where progress is shown; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def layer(self, digest: str, stage: str, done: int, total: int) -> None:
        """A layer is so far. `total` is 0 when it is not known."""

    def stage(self, name: str, host: str = "") -> None:
        """The whole is at another stage; `host` is who serves it, when that is known."""


class PlainBars:
    """No bars: a line for a host that serves, and one for each layer at its end."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def layer(self, digest: str, stage: str, done: int, total: int) -> None:
        if stage in _ENDS and self._told.get(digest) != stage:
            self._told[digest] = stage
            say(f"  {short_id(digest)}  {stage:8}{_amount(done if stage == 'failed' else total, total)}")

    def stage(self, name: str, host: str = "") -> None:
        if host and self._told.get("") != host:
            self._told[""] = host
            say(f"  from {clean(host)}")


class RichBars:
    """A line for the whole and a bar for each layer that moves."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(stderr=True)
        self._title = escape(clean(title))
        self._tasks: dict[str, TaskID] = {}
        self._layers: dict[str, tuple[int, int]] = {}
        self._began = time.monotonic()
        self._progress: Progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=max(MIN_BAR, min(MAX_BAR, console.width - AROUND_BAR))),
            TextColumn("{task.fields[amount]}", table_column=Column(no_wrap=True, min_width=AMOUNT)),
            console=console,
            transient=True,
        )
        self._whole = self._progress.add_task(self._title, total=None, amount="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, host: str = "") -> None:
        is_named = not host or self._title.startswith(f"{host}/")
        text = clean(name if is_named else f"{name} from {host}")
        self._progress.update(self._whole, description=f"{self._title}  {text}")

    def layer(self, digest: str, stage: str, done: int, total: int) -> None:
        done = total if stage in ("done", "present") else done
        if stage == "waiting":  # it counts, and gets its bar when it moves
            self._layers[digest] = (done, total)
            return
        if digest not in self._tasks:
            self._tasks[digest] = self._progress.add_task("", total=None, amount="")
        self._progress.update(
            self._tasks[digest],
            description=f"  {short_id(digest)}  {clean(stage)}",
            completed=done,
            total=total or None,
            amount=_amount(done, total),
        )
        self._layers[digest] = (done, total) if stage != "present" else (0, 0)
        self._sum_up()

    def _sum_up(self) -> None:
        done = sum(layer[0] for layer in self._layers.values())
        total = sum(layer[1] for layer in self._layers.values())
        speed = size(int(done / max(0.1, time.monotonic() - self._began)))
        self._progress.update(
            self._whole, completed=done, total=total or None, amount=f"{_amount(done, total)}  {speed}/s"
        )


def _amount(done: int, total: int) -> str:
    return f"{size(done)} of {size(total)}" if total else size(done)


def bars(title: str) -> Bars:
    """Bars when a person watches standard error, else none."""
    return RichBars(title) if colours.can_move(sys.stderr) else PlainBars()


async def pull(connection: Connection, name: str, auth: AuthConfig | None = None, platform: str = "") -> str:
    """Pull an image, show how far it is, and give its id."""
    _say_of("pulling", name, f" for {clean(platform)}" if platform else "")
    began = time.monotonic()
    image_id, fetched = await _show(name, images.pull_progress(connection, name, auth, platform))
    _say_of("pulled", name, f" in {time.monotonic() - began:.1f} s{fetched}")
    return image_id


async def watch(connection: Connection, name: str) -> str:
    """Show how far a pull is that somebody else began, until its end, and give the image's id."""
    image_id, fetched = await _show(name, images.watch(connection, name))
    _say_of("pulled", name, fetched)
    return image_id


def _say_of(verb: str, name: str, rest: str) -> None:
    """A line about an image. On a narrow terminal the name loses its middle, and then the line its end."""
    line = f"{verb} {clean(name)}{rest}"
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size((80, 24)).columns
        room = max(MIN_NAME, columns - tables.width_of(f"{verb} {rest}"))
        line = f"{verb} {tables.fitted(clean(name), room, tables.Shortening.PATH)}{rest}"
        line = tables.fitted(line, columns, tables.Shortening.END)
    say(line)


async def _show(name: str, items: AsyncIterator[PullProgress | Pulled]) -> tuple[str, str]:
    """The image's id, and what was fetched from where as the end of a sentence."""
    image_id, host, total = "", "", 0
    done = 0
    try:
        with bars(name) as shown:
            async for item in items:
                if isinstance(item, Pulled):
                    image_id = item.image_id
                else:
                    _show_pull(item, shown)
                    host = item.host or host
                    moving = [layer for layer in item.layers if layer.stage != "present"]
                    total = sum(layer.total_bytes for layer in moving) or total
                    done = sum(map(_arrived, moving)) or done
    except asyncio.CancelledError:
        if done:  # crib keeps what has arrived, see docs/images.md
            _say_of("interrupted:", name, f": the next pull goes on from {_amount(done, total)}")
        raise
    source = f" from {clean(host)}" if host else ""
    return image_id, f", {size(total)}{source}" if total else ""


def _arrived(layer: LayerProgress) -> int:
    """Bytes; of a layer that is done the runtime tells only how many it has."""
    return layer.total_bytes if layer.stage == "done" else layer.done_bytes


def _show_pull(item: PullProgress, shown: Bars) -> None:
    shown.stage(item.stage, item.host)
    for layer in item.layers:
        shown.layer(layer.digest, layer.stage, layer.done_bytes, layer.total_bytes)


@contextlib.contextmanager
def counter(what: str) -> Iterator[Callable[[], None]]:
    """Count on a terminal how many of something are through; call what it gives for each of them."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console

    done = itertools.count(1)
    with Console(stderr=True).status(f"0 {what}") as status:
        yield lambda: status.update(f"{next(done)} {what}")


async def import_archive(connection: Connection, path: str, names: Sequence[str]) -> list[ImportedImage]:
    """Import an archive, show how far it is, and give what it brought."""
    found: list[ImportedImage] = []
    with bars(path) as shown:
        async for item in images.import_progress(connection, path, names):
            _show_import(item, shown)
            found.extend(item.images)
    return found


def _show_import(item: ImportProgress, shown: Bars) -> None:
    shown.stage(item.stage)
    if item.layer_digest:
        shown.layer(item.layer_digest, "layer", item.done_bytes, item.total_bytes)
