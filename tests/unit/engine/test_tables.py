"""Tables of records: by id, by name, by the beginning of an id, by group."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from crib.engine.tables import Table
from crib.model.errors import InvalidRequest


@dataclass(frozen=True)
class Row:
    id: str
    name: str = ""
    group: str = ""
    value: int = 0


class Written:
    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.refuse = False

    def put(self, row: Row) -> None:
        if self.refuse:
            raise OSError("disk is full")
        self.rows[row.id] = row

    def delete(self, row: Row) -> None:
        del self.rows[row.id]


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def table(written: Written) -> Table[Row]:
    return Table(lambda row: row.name, written.put, written.delete, group_of=lambda row: row.group)


def test_a_row_is_written_then_shown_and_a_later_one_takes_its_place(
    table: Table[Row], written: Written
) -> None:
    first, second = Row("abcdef", "n", "g"), Row("abcdef", "n", "g", 2)
    assert table.put(first) is first
    table.put(second)
    assert written.rows == {"abcdef": second}
    assert table.get("abcdef") == table.named("n") == second
    assert table.members("g") == (second,)
    assert (list(table), len(table)) == ([second], 1)


def test_a_row_that_cannot_be_written_is_not_shown(table: Table[Row], written: Written) -> None:
    written.refuse = True
    with pytest.raises(OSError, match="disk is full"):
        table.put(Row("abcdef"))
    assert table.get("abcdef") is None


def test_a_removed_row_is_gone_everywhere(table: Table[Row], written: Written) -> None:
    row, other = Row("abcdef", "n", "g"), Row("fedcba", "m", "g")
    table.put(row)
    table.put(other)
    table.remove(row)
    assert (table.get("abcdef"), table.named("n"), table.members("g")) == (None, None, (other,))
    table.remove(other)
    assert table.members("g") == ()
    assert written.rows == {}
    assert table._groups == {}


def test_a_name_that_another_row_took_over_outlives_the_first_row(table: Table[Row]) -> None:
    first, second = Row("aaaaaa", "n"), Row("bbbbbb", "n")
    table.put(first)
    table.put(second)
    table.remove(first)
    assert table.named("n") == second


def test_rows_read_at_start_are_not_written_again(table: Table[Row], written: Written) -> None:
    table.fill([Row("abcdef", "n")])
    assert table.named("n") is not None
    assert written.rows == {}


def test_the_beginning_of_an_id_finds_the_one_row_that_it_fits(table: Table[Row]) -> None:
    row, other = Row("abcd12"), Row("abcd34")
    table.fill([row, other])
    assert table.find("abcd12") == row
    assert table.find("abcd1") == row
    assert table.find("abcd5") is None
    assert table.find("abc") is None
    assert table.find("") is None
    with pytest.raises(InvalidRequest, match="abcd matches 2 ids"):
        table.find("abcd")


def test_a_whole_id_that_is_the_beginning_of_another_is_that_row(table: Table[Row]) -> None:
    row = Row("abcd")
    table.fill([row, Row("abcd34")])
    assert table.find("abcd") == row


def test_the_table_may_change_while_it_is_read(table: Table[Row]) -> None:
    table.fill([Row("aaaa"), Row("bbbb")])
    for row in table:
        table.fill([Row(f"{row.id}x")])
    assert len(table) == 4
