"""The columns of `crib top`: which of them fit, and how their cells are written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from crib.cli.output import clean, short_id
from crib.cli.usage_options import Layout, Sort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crib.cli.usage.rows import UsageRow

UNKNOWN = "-"
MIN_NAME, MAX_NAME = 20, 60
NAME_SHARE = 3
"""Names get a third of the width before the last columns get theirs."""
_UNITS = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def cores(value: float | None) -> str:
    """CPU in thousandths of a core, as Kubernetes writes it: 125m."""
    return UNKNOWN if value is None else f"{value * 1000:.0f}m"


def amount(value: float | None) -> str:
    """Bytes in at most six columns: 12.3Mi."""
    if value is None:
        return UNKNOWN
    for unit in _UNITS:
        digits = 0 if not unit or value >= 99.95 else 1
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.{digits}f}{unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def percent(value: float | None) -> str:
    """12.3, or 100."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `rank` is its place when there is not room for all. Those of one rank come together."""

    title: str
    width: int
    rank: int
    cell: Callable[[UsageRow], str]
    sorts: Sort | None = None


COLUMNS: Sequence[Column] = (
    Column("CPU", 7, 0, lambda row: cores(row.figures.cpu), Sort.CPU),
    Column("MEMORY", 6, 1, lambda row: amount(row.figures.memory), Sort.MEMORY),
    Column("MEM%", 5, 5, lambda row: percent(row.figures.memory_share)),
    Column("SWAP", 6, 10, lambda row: amount(row.figures.swap)),
    Column("READ/s", 6, 4, lambda row: amount(row.figures.read), Sort.IO),
    Column("WRIT/s", 6, 4, lambda row: amount(row.figures.written), Sort.IO),
    Column("RECV/s", 6, 2, lambda row: amount(row.figures.received), Sort.NETWORK),
    Column("SENT/s", 6, 2, lambda row: amount(row.figures.sent), Sort.NETWORK),
    Column("P.CPU", 5, 3, lambda row: percent(row.figures.pressure.cpu), Sort.PRESSURE),
    Column("P.MEM", 5, 3, lambda row: percent(row.figures.pressure.memory), Sort.PRESSURE),
    Column("P.IO", 5, 3, lambda row: percent(row.figures.pressure.io), Sort.PRESSURE),
    Column("PIDS", 5, 6, lambda row: count(row.figures.processes), Sort.PIDS),
    Column("DISK", 6, 7, lambda row: amount(row.figures.disk), Sort.DISK),
    Column("ID", 12, 11, lambda row: short_id(row.id)),
)


def fitting(rows: Sequence[UsageRow], width: int, sort: Sort) -> list[Column]:
    """Those that `width` has room for, in their usual order.

    First those that the rows are ordered by, then those with figures, then those without any.
    """
    wanted = sorted(
        COLUMNS,
        key=lambda column: (
            column.sorts is not sort,
            bool(rows) and all(column.cell(row) == UNKNOWN for row in rows),
            column.rank,
        ),
    )
    taken: list[Column] = []
    for _, together in groupby(wanted, key=lambda column: column.rank):
        group = list(together)
        width -= sum(column.width + 1 for column in group)
        if width < 0:
            break
        taken += group
    return [column for column in COLUMNS if column in taken]


@dataclass(frozen=True, slots=True)
class UsageTable:
    """Columns with their width of names: lines of exactly the same columns for all rows."""

    columns: Sequence[Column]
    name_width: int
    layout: Layout

    @classmethod
    def of(cls, rows: Sequence[UsageRow], width: int, sort: Sort, layout: Layout) -> UsageTable:
        """A table at most `width` columns wide."""
        longest = max((cell_len(clean(name_of(row, layout))) for row in rows), default=0)
        name_width = max(MIN_NAME, min(width // NAME_SHARE, MAX_NAME, longest))
        columns = fitting(rows, width - name_width, sort)
        room = width - sum(column.width + 1 for column in columns)
        return cls(columns, max(MIN_NAME, min(room, MAX_NAME, longest)), layout)

    def head(self) -> list[tuple[str, Column | None]]:
        """The titles as wide as their columns; the name's has no column."""
        titles = {Layout.TREE: "POD, CONTAINER", Layout.PODS: "POD", Layout.CONTAINERS: "CONTAINER"}
        name = set_cell_size(titles[self.layout], self.name_width)
        return [(name, None), *((f" {one.title:>{one.width}}", one) for one in self.columns)]

    def line(self, row: UsageRow) -> str:
        """A row, as wide as the head."""
        name = clean(name_of(row, self.layout))
        if cell_len(name) > self.name_width:
            name = set_cell_size(name, self.name_width - 1) + "…"
        name = set_cell_size(name, self.name_width)
        return name + "".join(f" {one.cell(row):>{one.width}}" for one in self.columns)


def name_of(row: UsageRow, layout: Layout) -> str:
    """How a row is called: in a tree a container stands below its pod."""
    if layout is Layout.TREE and row.container:
        return f"  {row.container}"
    return row.name
