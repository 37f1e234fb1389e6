"""Writing results: tables for people, JSON and YAML for programs.

On a terminal a table fits its width; elsewhere it has all of its text, so that `grep` and `awk` see it.
Nothing that is written here (or by `session.say`) carries control characters: what containers, images and
registries say is not ours, and a terminal obeys it. `crib logs`, `exec` and `attach` write bytes as they are.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crib.cli import colours, tables
from crib.cli.forms import CustomColumns, Extract, Form, Format, is_table
from crib.cli.status_line import STATUS_LINE
from crib.cli.tables import TableColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

_UNITS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def as_dict(message: Message) -> dict[str, Any]:
    """A message with every field, enums by name, in the CRI's JSON (camelCase, 64-bit numbers as strings)."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return found


def document(value: Any, form: Form) -> None:
    """Write a value as JSON or YAML, or what a template takes from it."""
    if isinstance(form, Extract):
        print(clean_lines(form.template.written(value)), end="", flush=True)
    elif isinstance(form, CustomColumns):
        rows = value if isinstance(value, list) else [value]
        table([title for title, _ in form.columns], [_extracted(row, form) for row in rows])
    elif form is Format.JSON:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        print("".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text))
    else:
        import yaml

        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        if not all(line.isprintable() for line in text.split("\n")):
            text = yaml.safe_dump(value, sort_keys=False)
        print(text, end="")


def _extracted(row: Any, form: CustomColumns) -> list[str]:
    from crib.cli.jsonpath import plain

    return [",".join(map(plain, path.values(row))) or "<none>" for _, path in form.columns]


def table(
    columns: Sequence[str | TableColumn], rows: Sequence[Sequence[str]], form: Form = Format.TABLE
) -> None:
    """Write a table to standard output. A column that is only a title may lose the end of its text.

    Columns for `-o wide` are left out of other forms, together with their cells in each row.
    """
    every = [TableColumn(column) if isinstance(column, str) else column for column in columns]
    shown = [place for place, column in enumerate(every) if form is Format.WIDE or not column.wide]
    cells = [[clean(row[place]) for place in shown] for row in rows]
    for line in tables.lines([every[place] for place in shown], cells, _paper()):
        print(line)


def _paper() -> tables.Paper:
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None
    return tables.Paper(width, colours.wanted(sys.stdout), _mark(sys.stdout.encoding))


def _mark(encoding: str | None) -> str:
    try:
        "…".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "~"
    return "…"


@dataclass(frozen=True, slots=True)
class Listing:
    """Things of one kind, in all forms that a list may have."""

    columns: Sequence[str | TableColumn]
    rows: Sequence[Sequence[str]]
    """Needed for tables only (`forms.is_table`)."""
    ids: Sequence[str]
    """Whole: what --quiet prints."""
    names: Sequence[str]
    """As other commands take them: what `-o name` prints."""
    documents: Any
    """What JSON, YAML and templates are made of."""

    def show(self, form: Form, *, quiet: bool = False) -> None:
        if quiet or form is Format.NAME:
            for text in self.ids if quiet else self.names:
                tell(text)
        elif is_table(form):
            table(self.columns, self.rows, form)
        else:
            document(self.documents, form)


def tell(line: str) -> None:
    """A line of a result, on standard output."""
    STATUS_LINE.clear()
    print(clean(line), flush=True)


def clean(text: str) -> str:
    """Without control characters, which a terminal would obey; U+0080 to U+009F are some, too (ECMA-48)."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "?" for char in text)


def clean_lines(text: str) -> str:
    """As `clean`, but for line ends and tabs: templates have them on purpose."""
    return "".join(char if char in "\n\t" else clean(char) for char in text)


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
