"""Writing results: tables for people, JSON and YAML for programs.

On a terminal a table is rich's; elsewhere it is plain columns, so that `grep` and `awk` see no decoration.
Nothing that is written here (or by `session.say`) carries control characters: what containers, images and
registries say is not ours, and a terminal obeys it. `crib logs`, `exec` and `attach` write bytes as they are.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from crib.cli.options import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

_UNITS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def as_dict(message: Message) -> dict[str, Any]:
    """A message with every field, enums by name, in the CRI's JSON (camelCase, 64-bit numbers as strings)."""
    found: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return found


def document(value: Any, form: Format) -> None:
    """Write a value as JSON or YAML."""
    if form is Format.JSON:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        print("".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text))
        return
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if not all(line.isprintable() for line in text.split("\n")):
        text = yaml.safe_dump(value, sort_keys=False)
    print(text, end="")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cells)
        return
    widths = [max([len(column), *(len(row[i]) for row in cells)]) for i, column in enumerate(columns)]
    for row in [list(columns), *cells]:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console().print(drawn)


def _style(cell: str) -> str:
    word = cell.split(" ", 1)[0]
    if word in ("Ready", "Running", "yes"):
        return "green"
    return "red" if word in ("NotReady", "Unknown", "no") else ""


def tell(line: str) -> None:
    """A line of a result, on standard output."""
    print(clean(line), flush=True)


def clean(text: str) -> str:
    """Without control characters, which a terminal would obey; U+0080 to U+009F are some, too (ECMA-48)."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "?" for char in text)


def _escaped(char: str) -> str:
    """As JSON can have it, which is the same to a program."""
    return json.dumps(char)[1:-1]


def age(created_ns: int, now_ns: int | None = None) -> str:
    """How long ago, in its largest unit: 12s, 5m, 3h, 2d."""
    seconds = max(0, ((now_ns or time.time_ns()) - created_ns) // 10**9)
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "0s"


def size(count: int) -> str:
    """Bytes as people read them: 12.3 MiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def short_id(identifier: str) -> str:
    """The first 12 characters of an id, without its algorithm."""
    return identifier.removeprefix("sha256:")[:12]
