"""Charts of a bench: a page that needs nothing else, and one line of warning however noisy it was."""

from __future__ import annotations

import xml.dom.minidom
from pathlib import Path

import pytest

from crib.bench import charts, turns
from crib.bench.figures import Report, Samples
from crib.bench.options import BenchOptions
from crib.client import ClientError


def report(html: str = "", png: str = "") -> Report:
    samples = Samples()
    for value in (10.0, 12.0, 30.0):
        samples.add("RunPodSandbox <1>", "ms", "crib", value)
        samples.add("RunPodSandbox <1>", "ms", "other", 2 * value)
    samples.add("lifecycle", "pods/s", "crib", 7.0)
    return Report(samples, ["crib", "other"], BenchOptions(html=html, png=png), ["load 3", "b", "c"])


def test_the_page_has_a_chart_for_each_metric_and_loads_nothing(tmp_path: Path) -> None:
    turns.report(report(html=f"{tmp_path}/page.html"))
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 2
    assert "RunPodSandbox &lt;1&gt;, ms" in text
    assert "12 (30)" in text
    assert "24 (60)" in text
    assert "load 3" in text
    assert not [word for word in ("src=", "href=", "<script", "@import", "url(") if word in text]


def test_bars_are_as_long_as_their_values() -> None:
    samples = report().samples.values["RunPodSandbox <1>", "ms"]
    drawn = xml.dom.minidom.parseString(charts.chart(samples, ["crib", "other", "absent"]))
    crib, other = (float(bar.getAttribute("width")) for bar in drawn.getElementsByTagName("rect"))
    assert other == pytest.approx(2 * crib, abs=0.2)
    assert 0 < crib < other < charts._WIDTH


def test_a_metric_of_nothing_but_zeros_is_drawn() -> None:
    assert "<rect" in charts.chart({"crib": [0.0, 0.0]}, ["crib"])


def test_there_is_one_line_of_warning(capsys: pytest.CaptureFixture[str]) -> None:
    turns.report(report())
    assert capsys.readouterr().err == (
        "warning: the figures are noisy: load 3, and 2 more reasons (--json and --html have them)\n"
    )
    assert turns.warning_line(["one"]) == "warning: the figures are noisy: one"


@pytest.mark.skipif(charts.browser() is None, reason="no Chromium or Chrome here")
def test_the_picture_is_one(tmp_path: Path) -> None:
    turns.report(report(png=f"{tmp_path}/page.png"))
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_without_a_browser_a_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "BROWSERS", ("no-such-browser",))
    with pytest.raises(ClientError, match="--png needs one of no-such-browser on PATH; --html needs none"):
        turns.report(report(png=f"{tmp_path}/page.png"))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=f"charts: No such file or directory {tmp_path}/no/page.html"):
        turns.report(report(html=f"{tmp_path}/no/page.html"))
