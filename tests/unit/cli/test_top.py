"""`crib top` and `crib stats`: rows, their order, what fits on a screen, keys, and what programs get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from crib.cli.forms import Format
from crib.cli.session import CliSession
from crib.cli.usage import columns, stats, top
from crib.cli.usage.columns import COLUMNS, UsageTable
from crib.cli.usage.keys import HELP, KeyReader, View, press
from crib.cli.usage.rows import Meter, Shown, UsageFigures, UsageRow, arrange
from crib.cli.usage.screen import Picture, frame
from crib.cli.usage_options import Layout, Sort, StatsOptions, TopOptions
from crib.client.errors import NotFound
from crib.client.usage import PodReading, PressureShares, Usage, UsageReading
from crib.client.usage import RunningCount as Count
from tests.unit.client.fake_usage import (
    SECOND,
    SERVER,
    WEB,
    UsageWorld,
    add_web,
    io_metrics,
    serve_usage,
    server_stats,
    web_stats,
)


def row(name: str, *containers: UsageRow, **figures: object) -> UsageRow:
    pod, _, container = name.partition("/")
    return UsageRow(name.encode().hex(), f"default/{pod}", container, UsageFigures(**figures), containers)  # type: ignore[arg-type]


ROWS = (
    row("idle", row("idle/main", cpu=0.0, memory=1 << 20), cpu=0.0, memory=2 << 20, received=10.0),
    row(
        "busy",
        row("busy/helper", cpu=0.1, memory=900 << 20),
        row("busy/main", cpu=1.5, memory=1 << 30, memory_limit=1 << 30),
        cpu=1.6,
        memory=2 << 30,
        sent=5.0,
        pressure=PressureShares(cpu=40.0),
    ),
    row("unknown"),
)


def names(shown: Shown) -> list[str]:
    return [one.name.removeprefix("default/") for one in arrange(ROWS, shown)]


def test_a_tree_has_the_containers_below_their_pod_both_in_order() -> None:
    assert names(Shown()) == ["busy", "busy/main", "busy/helper", "idle", "idle/main", "unknown"]


@pytest.mark.parametrize(
    ("sort", "reverse", "expected"),
    [
        (Sort.CPU, False, ["busy", "idle", "unknown"]),
        (Sort.CPU, True, ["idle", "busy", "unknown"]),
        (Sort.NETWORK, False, ["idle", "busy", "unknown"]),
        (Sort.PRESSURE, False, ["busy", "idle", "unknown"]),
        (Sort.NAME, True, ["unknown", "idle", "busy"]),
        (Sort.IO, False, ["busy", "idle", "unknown"]),
    ],
)
def test_what_is_not_known_comes_last_in_every_order(sort: Sort, reverse: bool, expected: list[str]) -> None:
    assert names(Shown(Layout.PODS, sort, reverse)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("main", ["busy", "busy/main", "idle", "idle/main"]),
        ("BUSY", ["busy", "busy/main", "busy/helper"]),
        ("busy help", ["busy", "busy/helper"]),
        (b"busy".hex() + "2f6d", ["busy", "busy/main"]),
        ("nothing", []),
    ],
)
def test_a_filter_keeps_what_has_all_its_words_and_the_pods_above(text: str, expected: list[str]) -> None:
    assert names(Shown(text=text)) == expected


def test_only_containers_are_in_one_order() -> None:
    assert names(Shown(Layout.CONTAINERS, Sort.MEMORY)) == ["busy/main", "busy/helper", "idle/main"]


def reading(**usage: object) -> UsageReading:
    return UsageReading(0, (PodReading("a", "n", "p", Usage(**usage), ()),))  # type: ignore[arg-type]


def test_rates_are_from_one_reading_to_the_next() -> None:
    meter = Meter()
    (first,) = meter.rows(reading(cpu=Count(0, 0), received=Count(0, 0), nano_cores=250_000_000))
    assert (first.figures.cpu, first.figures.received) == (0.25, None)
    (second,) = meter.rows(reading(cpu=Count(2 * SECOND, SECOND), received=Count(2 * SECOND, 3000)))
    assert (second.figures.cpu, second.figures.received) == (0.5, 1500.0)


def test_a_rate_stays_until_the_runtime_has_looked_again() -> None:
    meter = Meter()
    for at, value in ((0, 0), (SECOND, 100), (SECOND, 100)):
        (last,) = meter.rows(reading(read=Count(at, value), cpu=Count(at, value * 10**6)))
    assert (last.figures.read, last.figures.cpu) == (100.0, 0.1)


def test_a_counter_that_began_anew_has_no_rate() -> None:
    meter = Meter()
    for at, value in ((0, 500), (SECOND, 3)):
        (last,) = meter.rows(reading(sent=Count(at, value)))
    assert last.figures.sent is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1000, "1.0Ki"),
        (12.3 * 1024, "12.3Ki"),
        (99.96 * 1024, "100Ki"),
        (1023 * 1024, "1.0Mi"),
        (5 << 50, "5.0Pi"),
    ],
)
def test_bytes_take_six_columns_at_most(value: float | None, expected: str) -> None:
    assert columns.amount(value) == expected


def test_cpu_and_percent_are_short() -> None:
    assert [columns.cores(value) for value in (None, 0, 0.0316, 2)] == ["-", "0m", "32m", "2000m"]
    assert [columns.percent(value) for value in (None, 0.04, 12.34, 99.97)] == ["-", "0.0", "12.3", "100"]


@pytest.mark.parametrize("width", range(60, 201, 7))
@pytest.mark.parametrize("layout", Layout)
def test_every_line_fits_the_width(width: int, layout: Layout) -> None:
    rows = (*ROWS, row("a-name-that-is-longer-than-any-screen-would-like-" * 5), row("名前" * 30))
    for sort in Sort:
        table = UsageTable.of(rows, width, sort, layout)
        head = "".join(title for title, _ in table.head())
        lines = [table.line(one) for one in rows]
        assert {cell_len(line) for line in (head, *lines)} == {cell_len(head)}
        assert cell_len(head) <= width
        assert any(one.sorts is sort for one in table.columns) or sort is Sort.NAME


def test_columns_without_figures_leave_first() -> None:
    table = UsageTable.of(arrange(ROWS, Shown()), 75, Sort.CPU, Layout.TREE)
    assert [one.title for one in table.columns] == [
        *("CPU", "MEMORY", "MEM%", "RECV/s", "SENT/s", "P.CPU", "ID"),
    ]
    assert len(UsageTable.of(ROWS, 250, Sort.CPU, Layout.TREE).columns) == len(COLUMNS)


def test_a_name_cannot_drive_the_terminal() -> None:
    rows = (row("evil\x1b[2J\x9bname"),)
    assert "\x1b" not in UsageTable.of(rows, 80, Sort.CPU, Layout.TREE).line(rows[0])


def test_keys_are_read_from_what_terminals_send() -> None:
    keys = KeyReader()
    assert keys.read(b"c\x1b[A\x1bOB\x1b[5~\x7f\r") == ["c", "up", "down", "page up", "backspace", "enter"]
    assert keys.read(b"\x1b") == ["escape"]
    assert keys.read("ä".encode()[:1]) == []
    assert keys.read("ä".encode()[1:]) == ["ä"]
    assert keys.read(b"\x1b[200~x\x1b[1;5Cy\x00") == ["x", "y"]


VIEW = View(Shown(), 2.0)


def test_keys_change_the_view() -> None:
    def after(*keys: str) -> View:
        view = VIEW
        for key in keys:
            view = press(view, key, page=10)
        return view

    assert after("m").shown.sort is Sort.MEMORY
    assert after("r").shown.reverse
    assert after("t").shown.layout is Layout.PODS
    assert after("t", "t", "t").shown.layout is Layout.TREE
    assert after(" ").paused
    assert after("+").interval == 1.0
    assert after("+", "+", "+", "+").interval == 0.5
    assert after("page down", "down", "up").offset == 10
    assert after("up").offset == 0
    assert after("q").left
    assert after("?").help
    assert not after("?", "x").help
    assert after("?", "q").left


def test_a_filter_is_typed_and_removed() -> None:
    view = VIEW
    for key in ("/", "q", "m", "x", "backspace", "up", "enter"):
        view = press(view, key, page=10)
    assert (view.shown.text, view.typing, view.left) == ("qm", False, False)
    assert press(view, "escape", page=10).shown.text == ""


def lines_of(view: View, width: int, height: int, picture: Picture | None = None) -> list[str]:
    text, _ = frame(picture or Picture("crib 1", ROWS), view, width, height)
    return text.plain.split("\n")


@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 10), (200, 60), (60, 5), (20, 3), (1, 1)])
@pytest.mark.parametrize("view", [VIEW, replace(VIEW, help=True), replace(VIEW, typing=True, paused=True)])
def test_a_frame_has_the_size_of_the_screen(view: View, width: int, height: int) -> None:
    lines = lines_of(view, width, height)
    assert len(lines) <= height
    if width >= 60:
        assert all(cell_len(line) <= width for line in lines)


def test_help_fits_the_narrowest_screen() -> None:
    assert len(lines_of(replace(VIEW, help=True), 60, 24)) == len(HELP)
    assert max(map(cell_len, lines_of(replace(VIEW, help=True), 60, 24))) <= 60


def test_the_last_row_stays_on_the_screen_however_far_one_scrolls() -> None:
    text, offset = frame(Picture("crib", ROWS), replace(VIEW, offset=1 << 30), 80, 7)
    assert (offset, text.plain.split("\n")[5].split()[0]) == (3, "default/unknown")
    assert "4-6 of 6" in text.plain


def test_a_runtime_that_fails_is_told_above_the_last_figures() -> None:
    lines = lines_of(VIEW, 100, 20, Picture("crib", ROWS, problem="no runtime \x1banswers"))
    assert "no runtime ?answers" in lines[0]
    assert "default/busy" in lines[3]


@pytest.fixture
def world() -> UsageWorld:
    world = UsageWorld()
    add_web(world)
    return world


@pytest.fixture
async def session(world: UsageWorld, tmp_path: Path) -> AsyncIterator[CliSession]:
    server = await serve_usage(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


FIGURES = {
    "cpuCores": float,
    "memoryBytes": int,
    "memoryLimitBytes": int,
    "swapBytes": int,
    "processes": int,
    "writableLayerBytes": int,
    "readBytesPerSecond": int,
    "writtenBytesPerSecond": int,
    "receivedBytesPerSecond": int,
    "sentBytesPerSecond": int,
    "pressurePercent": dict,
}
"""What programs may rely on: these names, with these types or null."""


async def test_programs_get_a_document_whose_names_do_not_change(
    world: UsageWorld, session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pod_stats, world.pod_metrics = [web_stats(SECOND, 2, 0)], [io_metrics(SECOND, 0)]
    at = SECOND + SECOND // 2
    world.later = {
        "ListPodSandboxStats": [web_stats(at, 2.25, 1000)],
        "ListPodSandboxMetrics": [io_metrics(at, 4096)],
    }
    await top.top(session, TopOptions(interval=0.5, json=True))
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"timestamp", "seconds", "pods"}
    (pod,) = found["pods"]
    (server,) = pod["containers"]
    assert set(pod) == {"id", "namespace", "name", "containers", *FIGURES}
    assert set(server) == {"id", "name", *FIGURES}
    for name, kind in FIGURES.items():
        assert all(one[name] is None or isinstance(one[name], kind) for one in (pod, server))
    assert (pod["id"], pod["cpuCores"], pod["receivedBytesPerSecond"]) == (WEB, 0.5, 2000)
    assert (server["id"], server["readBytesPerSecond"]) == (SERVER, 8192)
    assert server["pressurePercent"] == {"cpu": 12.5, "memory": None, "io": None}


async def test_without_a_terminal_there_is_one_plain_table_with_dashes_for_what_is_not_told(
    world: UsageWorld, session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    world.container_stats = [server_stats(SECOND, 2)]
    await top.top(session, TopOptions(interval=0.5))
    head, pod, server = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["POD,", "CONTAINER", "CPU", "MEMORY"]
    cells = dict(zip(head.split()[2:], server.split()[1:], strict=True))
    assert (server.split()[0], cells["MEMORY"], cells["MEM%"], cells["RECV/s"]) == (
        "server",
        "60.0Mi",
        "93.8",
        "-",
    )
    assert pod.startswith("default/web")


async def test_stats_shows_totals_of_everything(
    world: UsageWorld, session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pod_stats = [web_stats(SECOND, 2, 500)]
    await stats.stats(session, StatsOptions())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][:3] == ["default/web", "-", "2.0s"]
    assert lines[2] == [
        "default/web",
        "server",
        "2.0s",
        "60.0Mi",
        "64.0Mi",
        "4.0Ki",
        "-",
        "8.0Ki",
        "-",
        "-",
        "-",
        "-",
    ]
    await stats.stats(session, StatsOptions(output=Format.JSON))
    (pod,) = json.loads(capsys.readouterr().out)["pods"]
    assert (pod["cpuNanoSeconds"], pod["receivedBytes"], pod["writtenBytes"]) == (2 * SECOND, 500, None)


async def test_stats_of_one_shows_every_figure_of_the_cri_and_dashes(
    world: UsageWorld, session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pod_stats, world.container_stats = [web_stats(SECOND, 2, 500)], [server_stats(SECOND, 2)]
    await stats.stats(session, StatsOptions("web"))
    figures = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert figures["cpu.usage_core_nano_seconds"] == "2000000000 ns (2.000 s)"
    assert figures["cpu.usage_nano_cores"] == "-"
    assert figures["network.interfaces.lo.rx_bytes"] == "999 (999 B)"
    assert figures["io"] == "-"
    await stats.stats(session, StatsOptions("web", "server"))
    figures = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert figures["cpu.psi.Some.Avg10"] == "12.50 %"
    with pytest.raises(NotFound, match="no pod or container 'nobody'"):
        await stats.stats(session, StatsOptions("nobody"))


async def test_stats_watches_with_a_line_of_json_for_each_time(
    world: UsageWorld, session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pod_stats = [web_stats(SECOND, 2, 500)]
    watching = asyncio.ensure_future(stats.stats(session, StatsOptions(watch=True, json=True, interval=0.5)))
    async with asyncio.timeout(60):
        while world.asked.count("ListPodSandboxStats") < 3:
            await world.heard.get()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert all(json.loads(line)["pods"][0]["name"] == "web" for line in lines)
