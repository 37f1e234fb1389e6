"""Pulls and imports with bars on a terminal, with a line at the beginning and the end elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from crib.cli.output import clean, short_id, size
from crib.cli.session import say
from crib.client import images
from crib.client.images import Pulled
from crib.stubs.node.v1.node_pb2 import ImportProgress, PullProgress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from crib.client import Connection
    from crib.stubs.node.v1.node_pb2 import ImportedImage


class Bars(Protocol):
    """Where progress is shown; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def layer(self, digest: str, stage: str, done: int, total: int) -> None:
        """A layer is so far. `total` is 0 when it is not known."""

    def stage(self, name: str) -> None:
        """The whole is at another stage."""


class PlainBars:
    """No bars: the whole is told in two lines by its caller."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def layer(self, digest: str, stage: str, done: int, total: int) -> None:
        return None

    def stage(self, name: str) -> None:
        return None


class RichBars:
    """A line for the whole and a bar for each layer that moves."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn

        self._title = escape(clean(title))
        self._tasks: dict[str, TaskID] = {}
        self._layers: dict[str, tuple[int, int]] = {}
        self._began = time.monotonic()
        self._progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[amount]}"),
            console=Console(stderr=True),
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

    def stage(self, name: str) -> None:
        self._progress.update(self._whole, description=f"{self._title}  {clean(name)}")

    def layer(self, digest: str, stage: str, done: int, total: int) -> None:
        done = total if stage in ("done", "present") else done
        if digest not in self._tasks:
            self._tasks[digest] = self._progress.add_task("", total=None, amount="")
        self._progress.update(
            self._tasks[digest],
            description=f"  {short_id(digest)}  {clean(stage)}",
            completed=done,
            total=total or None,
            amount=_amount(done, total),
        )
        if stage != "present":
            self._layers[digest] = (done, total)
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
    return RichBars(title) if sys.stderr.isatty() else PlainBars()


async def pull(connection: Connection, name: str) -> str:
    """Pull an image, show how far it is, and give its id."""
    began, total, image_id = time.monotonic(), 0, ""
    say(f"pulling {clean(name)}")
    with bars(name) as shown:
        async for item in images.pull_progress(connection, name):
            if isinstance(item, Pulled):
                image_id = item.image_id
                continue
            _show_pull(item, shown)
            total = sum(layer.total_bytes for layer in item.layers if layer.stage != "present")
    took = time.monotonic() - began
    say(f"pulled {clean(name)} in {took:.1f} s" + (f", {size(total)}" if total else ""))
    return image_id


def _show_pull(item: PullProgress, shown: Bars) -> None:
    shown.stage(f"{item.stage} from {item.host}" if item.host else item.stage)
    for layer in item.layers:
        if layer.stage != "waiting":
            shown.layer(layer.digest, layer.stage, layer.done_bytes, layer.total_bytes)


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
