"""Tables that fit the terminal, and colours where they are wanted."""

from __future__ import annotations

import io
import sys

import pytest

from crib.cli import colours, output, tables
from crib.cli.tables import Paper, Shortening, TableColumn

IMAGE = "registry.example.com:5000/team/project/backend/server:2024.11.3"
COLUMNS = (
    TableColumn("CONTAINER", Shortening.NOTHING),
    TableColumn("POD"),
    TableColumn("NAME"),
    TableColumn("HANDLER", rank=2),
    TableColumn("IMAGE", Shortening.PATH, rank=1),
)
ROW = ("0123456789ab", "kube-system/a-rather-long-name-of-a-pod-7d9c5-x2x4z", "server", "crun", IMAGE)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    drawn = tables.lines(COLUMNS, [ROW], Paper(width))
    assert all(tables.width_of(line) <= width for line in drawn)
    assert len(drawn) == 2
    assert drawn[1].startswith("0123456789ab ")


def test_a_pipe_gets_everything() -> None:
    (_, line) = tables.lines(COLUMNS, [ROW], Paper())
    assert line.split() == list(ROW)


def test_columns_are_left_out_by_their_rank_and_only_where_cutting_is_not_enough() -> None:
    assert "HANDLER" in tables.lines(COLUMNS, [ROW], Paper(80))[0]
    head = tables.lines(COLUMNS, [ROW], Paper(45))[0]
    assert "HANDLER" not in head
    assert "IMAGE" in head
    assert "IMAGE" not in tables.lines(COLUMNS, [ROW], Paper(38))[0]


@pytest.mark.parametrize(
    ("name", "width", "cut"),
    [
        (IMAGE, 80, IMAGE),
        (IMAGE, 50, "registry.example.com:5000/…/server:2024.11.3"),
        (IMAGE, 30, "…/server:2024.11.3"),
        (IMAGE, 12, "serve…4.11.3"),
        ("a/b@sha256:" + "0123456789abcdef" * 4, 20, "a/b@0123456789ab"),
        ("sha256:" + "0" * 64, 9, "sha2…0000"),
        ("docker.io/library/nginx:1.27", 26, "docker.io/…/nginx:1.27"),
        ("production/web-7d9c5", 12, "…/web-7d9c5"),
        ("annotations.io.kubernetes.cri.sandbox-uid", 26, "annotations.…i.sandbox-uid"),
        ("production/web-7d9c5", 8, "web…d9c5"),
    ],
)
def test_a_name_with_slashes_loses_its_middle_or_its_beginning(name: str, width: int, cut: str) -> None:
    assert tables.fitted(name, width, Shortening.PATH) == cut
    assert tables.width_of(cut) <= width


def test_wide_and_combining_characters_count_as_a_terminal_counts_them() -> None:
    assert tables.width_of("名前") == 4
    assert tables.width_of("e\u0301") == 1
    assert tables.fitted("名前名前", 6, Shortening.END) == "名前…"
    (_, line) = tables.lines((TableColumn("A"), TableColumn("B")), [("名前", "x")], Paper())
    assert line == "名前   x"


@pytest.mark.parametrize(
    ("variables", "is_terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"CLICOLOR": "0"}, True, False),
        ({"CLICOLOR_FORCE": "1"}, False, True),
        ({"CLICOLOR_FORCE": "0"}, False, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_follow_what_the_environment_says(
    variables: dict[str, str], is_terminal: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert colours.wanted(Terminal() if is_terminal else io.StringIO()) is coloured


def test_a_table_on_a_terminal_fits_it_and_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    output.table(("NAME", "STATE", "WHY"), [("a", "NotReady", "because of something that is long to tell")])
    head, row = screen.getvalue().splitlines()
    assert head == "\x1b[1mNAME\x1b[0m  \x1b[1mSTATE\x1b[0m     \x1b[1mWHY\x1b[0m"
    assert row == "a     \x1b[31mNotReady\x1b[0m  because of something th…"
    monkeypatch.setenv("NO_COLOR", "1")
    output.table(("NAME",), [("a",)])
    assert screen.getvalue().endswith("\nNAME\na\n")


def test_a_stream_that_knows_no_dots_gets_another_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output._mark("ascii") == output._mark(None) == "~"
    assert output._mark("utf-8") == "…"
