"""`crib timeline`: bars in 60 columns, a page, and tables over several pods."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from crib.cli import timeline, timeline_page, timeline_reports
from crib.cli.forms import Format
from crib.cli.history_options import Slowest, TimelineOptions
from crib.stubs.node.v1 import node_pb2

POD = "0123456789abcdef"


def stage(
    name: str, at: float, ms: float, parent: int = 0, outcome: str = "ok", subject: str = ""
) -> node_pb2.Stage:
    return node_pb2.Stage(
        name=name,
        subject=subject,
        started_at=int(at * 1e6),
        duration_ns=int(ms * 1e6),
        parent=parent,
        outcome=outcome,
    )


def reply(*stages: node_pb2.Stage, pod: str = "default/web", sandbox: str = POD) -> node_pb2.TimelineResponse:
    return node_pb2.TimelineResponse(pod=pod, pod_sandbox_id=sandbox, stages=stages)


def program(one: node_pb2.Stage, name: str, ms: float, cpu: float) -> node_pb2.Stage:
    one.program, one.program_ns, one.program_cpu_ns = name, int(ms * 1e6), int(cpu * 1e6)
    return one


def life() -> node_pb2.TimelineResponse:
    """A start, and an end half a minute later."""
    return reply(
        stage("RunPodSandbox", 100, 40, subject="web"),
        program(stage("network", 110, 20, parent=1, subject="bridge"), "bridge", 15, 5),
        stage("CreateContainer", 140, 10, subject="app", outcome="failed: <no> such image"),
        stage("StopPodSandbox", 30_150, 50, outcome="running"),
    )


def test_bars_are_on_one_scale_and_a_later_stretch_has_its_own() -> None:
    assert timeline.chart(life(), 60) == [
        "    start      took     cpu  stage",
        "      0.0      40.0          RunPodSandbox web  █████████▋",
        "     10.0      20.0     5.0    network bridge     ████▊",
        "     40.0      10.0          CreateContainer ap          ██▍",
        "                    failed: <no> such image",
        "--- 30.1 s later",
        "      0.0      50.0          StopPodSandbox     ████████████",
        "                    running",
        "               50.0          in all",
    ]


@pytest.mark.parametrize("width", [60, 61, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    outcome = "failed: " + "y" * 300
    long = [
        program(stage("x" * 80, number * 1e9, 1e8, parent=number, outcome=outcome), "z", 1e7, 1e7)
        for number in range(12)
    ]
    for lines in (timeline.chart(life(), width), timeline.chart(reply(*long), width)):
        assert max(map(len, lines)) <= width


def test_a_timeline_that_names_itself_as_parent_still_ends() -> None:
    assert "a" in timeline.chart(reply(stage("a", 0, 1, parent=1)), 80)[1]
    assert timeline.chart(reply(), 80) == ["no stages were recorded"]


class Page(HTMLParser):
    """Notes what is open, and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else_and_what_pods_say_is_text_in_it() -> None:
    made = timeline_page.page(life())
    page = Page()
    page.feed(made)
    assert page.open == []
    assert page.fetched == []
    assert not re.search(r"<script|url\(|@import", made)
    assert "failed: <no> such image" in "".join(page.text)
    assert made.count('class="lane"') == 4
    assert made.count("<h2>") == 2
    assert 'class="bar bad"' in made
    assert 'class="bar open"' in made
    assert "bridge: 15.0 ms, of it 5.0 ms CPU" in made


def test_the_page_of_a_pod_without_stages_says_so() -> None:
    assert "No stages were recorded" in timeline_page.page(reply())


def test_the_slowest_pods_and_stages_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    quick = reply(stage("RunPodSandbox", 0, 5), pod="default/quick", sandbox="1" * 16)
    options = TimelineOptions(slowest=Slowest.PODS, number=1)
    timeline_reports.slowest([quick, life()], options, Format.JSON)
    (worst,) = json.loads(capsys.readouterr().out)
    assert worst == {
        "ms": 50.0,
        "pod": "default/web",
        "id": POD[:13],
        "most in": "network bridge",
        "of which": 20.0,
    }
    options = TimelineOptions(slowest=Slowest.STAGES, number=2)
    timeline_reports.slowest([quick, life()], options, Format.JSON)
    found = json.loads(capsys.readouterr().out)
    assert [(row["ms"], row["stage"]) for row in found] == [
        (50.0, "StopPodSandbox"),
        (20.0, "network bridge"),
    ]
    timeline_reports.slowest([], options, Format.TABLE)
    assert capsys.readouterr().out.split() == ["MS", "POD"]


def test_two_pods_are_compared_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    other = reply(
        stage("RunPodSandbox", 0, 140, subject="other"),
        stage("network", 0, 60, parent=1, subject="bridge"),
        stage("network", 0, 60, parent=1, subject="bridge"),
        pod="default/other",
    )
    timeline_reports.compare(life(), other, Format.TABLE)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:2] == ["a", "default/web"]
    assert lines[1][:2] == ["b", "default/other"]
    assert lines[3] == ["RunPodSandbox", "40.0", "140.0", "+100.0"] or lines[4] == lines[3]
    assert ["network", "bridge", "20.0", "120.0", "+100.0"] in lines
    assert ["CreateContainer", "app", "10.0", "-", "-10.0"] in lines
