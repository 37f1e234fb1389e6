"""Tables that fit: columns are cut or left out until a row is one line of the terminal.

A cell is never folded into two lines. Ids stay whole. A name with slashes (an image's, a pod's) loses its
middle or its beginning, other text its end.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from crib.cli.colours import painted, style_of

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP, NARROW_GAP = 3, 2
"""Columns of the terminal between two cells: where there is room, and where there is not."""
MIN_CUT = 8
"""Columns that a cell keeps, or its title's if that is longer."""


class Shortening(Enum):
    """What a cell loses where there is no room for all of it."""

    NOTHING = "nothing"
    END = "end"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column. The greatest `rank` is left out first, 0 never. `wide`: shown with -o wide only."""

    title: str
    cut: Shortening = Shortening.END
    rank: int = 0
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Paper:
    """What a table is written on. Without a `width` (a pipe) nothing is cut."""

    width: int | None = None
    colours: bool = False
    mark: str = "…"
    """What stands for what was cut: one column."""


def lines(columns: Sequence[TableColumn], rows: Sequence[Sequence[str]], paper: Paper) -> list[str]:
    """The head and a line for each row."""
    places = list(range(len(columns)))
    natural = [max(map(width_of, [columns[i].title, *(row[i] for row in rows)])) for i in places]
    gap = GAP
    if paper.width is not None:
        if sum(natural) + GAP * (len(places) - 1) > paper.width:
            gap = NARROW_GAP
        places = _kept(columns, natural, paper.width, gap)
        natural = _shrunk(columns, natural, places, paper.width - gap * (len(places) - 1))
    drawn = [_line([(columns[i].title, natural[i], "bold") for i in places], gap, paper)]
    for row in rows:
        cells = [(fitted(row[i], natural[i], columns[i].cut, paper.mark), natural[i]) for i in places]
        drawn.append(_line([(cell, width, style_of(cell)) for cell, width in cells], gap, paper))
    return drawn


def _floor(column: TableColumn, natural: int) -> int:
    return natural if column.cut is Shortening.NOTHING else min(natural, max(MIN_CUT, width_of(column.title)))


def _kept(columns: Sequence[TableColumn], natural: Sequence[int], width: int, gap: int) -> list[int]:
    """The columns for which there is room when all are cut as far as they may be."""
    places = list(range(len(columns)))

    def needed() -> int:
        return sum(_floor(columns[i], natural[i]) for i in places) + gap * (len(places) - 1)

    for rank in sorted({column.rank for column in columns} - {0}, reverse=True):
        if needed() <= width:
            break
        places = [i for i in places if columns[i].rank != rank]
    return places


def _shrunk(
    columns: Sequence[TableColumn], natural: Sequence[int], places: Sequence[int], room: int
) -> list[int]:
    """Widths with which the cells fit into `room`: the widest gives first."""
    widths = list(natural)
    while sum(widths[i] for i in places) > room:
        able = [i for i in places if widths[i] > _floor(columns[i], natural[i])]
        if not able:
            # not even ids have room: the last columns lose theirs
            able = [i for i in places if widths[i] > 1][-1:]
            if not able:
                break
        widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


def _line(cells: Sequence[tuple[str, int, str]], gap: int, paper: Paper) -> str:
    parts = []
    for number, (text, width, style) in enumerate(cells):
        shown = fitted(text, width, Shortening.END, paper.mark)
        space = " " * (width - width_of(shown) + gap) if number < len(cells) - 1 else ""
        parts.append((painted(shown, style) if paper.colours else shown) + space)
    return "".join(parts).rstrip()


def fitted(text: str, width: int, cut: Shortening, mark: str = "…") -> str:
    """The text in at most `width` columns."""
    if width_of(text) <= width:
        return text
    if cut is Shortening.PATH:
        text = _path(text, width, mark)
        if width_of(text) <= width:
            return text
    return _start(text, width - 1) + mark if width > 0 else ""


def _path(name: str, width: int, mark: str) -> str:
    """`registry/…/name:tag`, or less of it. A digest is shortened first: twelve digits identify it."""
    if "@sha256:" in name:
        before, _, digest = name.partition("@sha256:")
        name = f"{before}@{digest[:12]}" if before else digest[:12]
    first, *middle = name.split("/")
    if not middle:
        return _middle(name, width, mark)
    last = middle[-1]
    for shorter in (name, f"{first}/{mark}/{last}", f"{mark}/{last}"):
        if width_of(shorter) <= width:
            return shorter
    return _middle(last, width, mark)


def _middle(text: str, width: int, mark: str) -> str:
    """Of a name and a tag the tag is what tells images apart."""
    if width < 4 or width_of(text) <= width:
        return text
    end = width // 2
    return _start(text, width - 1 - end) + mark + text[-end:]


def _start(text: str, width: int) -> str:
    """As many whole characters as `width` columns have room for."""
    kept, used = [], 0
    for char in text:
        used += _width(char)
        if used > width:
            break
        kept.append(char)
    return "".join(kept)


def width_of(text: str) -> int:
    """The columns that a terminal needs for it (Unicode TR 11)."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
