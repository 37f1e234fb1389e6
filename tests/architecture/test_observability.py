"""The paper, the dashboard and the alerts say of the metrics what the source says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crib.observe.families import FAMILIES, PROCESS
from tests.promql import parsed

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "packaging/observability/dashboard.json"
ALERTS = ROOT / "packaging/observability/alerts.yaml"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that it gives to what it scrapes."""


def series() -> dict[str, set[str]]:
    """Everything that can be asked for, with its labels."""
    found = {"up": set[str](), **{name: set[str]() for name, _, _ in PROCESS}}
    for family in FAMILIES:
        if family.kind == "histogram":
            found |= {f"{family.name}_{end}": set(family.labels) for end in ("sum", "count")}
            found[f"{family.name}_bucket"] = {*family.labels, "le"}
        else:
            found[family.name] = set(family.labels)
    return {name: labels | OF_PROMETHEUS for name, labels in found.items()}


SERIES = series()


def problems(query: str) -> list[str]:
    """What a query names that is not there."""
    found = parsed(query)
    unknown = [f"there is no {name}" for name in found.selected if name not in SERIES]
    labels = [
        f"{name} has no label {label}"
        for name, named in found.selected.items()
        for label in sorted(named - SERIES.get(name, named))
    ]
    known = set[str]().union(*(SERIES.get(name, set()) for name in found.selected))
    grouped = [f"nothing here has the label {label}" for label in sorted(found.grouped - known)]
    return unknown + labels + grouped


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_the_paper_is_what_the_source_says() -> None:
    command = [sys.executable, str(ROOT / "script/observability"), "--check"]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    assert {panel: found for panel, query in dashboard_queries() if (found := problems(query))} == {}


def test_the_legends_of_the_dashboard_name_labels_of_their_queries() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = parsed(target["expr"])
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= (query.grouped or OF_PROMETHEUS), (panel["title"], target)


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for _, query in dashboard_queries() for name in parsed(query).selected}
    missing = [
        family.name
        for family in FAMILIES
        if not {family.name, f"{family.name}_bucket", f"{family.name}_count"} & shown
    ]
    assert missing == []


def test_the_panels_of_the_dashboard_do_not_lie_over_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_exists_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"]) == []
    assert re.search(r"[<>=]=? ?[0-9.]+$", rule["expr"].strip()), "it must compare with a bound"
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "action"}
    assert re.fullmatch(r"\d+m", rule.get("for", "1m"))


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


def test_metrics_are_named_as_prometheus_wants_them() -> None:
    """https://prometheus.io/docs/practices/naming/"""
    for family in FAMILIES:
        assert re.fullmatch(r"crib_[a-z0-9_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.name.endswith("_seconds") or family.kind != "histogram", family.name
        assert family.help.endswith("."), family.name
        assert all(re.fullmatch(r"[a-z]+", label) for label in family.labels)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("crib_nothing", ["there is no crib_nothing"]),
        ('crib_pods{phase="x"}', ["crib_pods has no label phase"]),
        ("sum by (phase) (rate(crib_calls_total[5m]))", ["nothing here has the label phase"]),
        ("crib_call_duration_seconds", ["there is no crib_call_duration_seconds"]),
        ('sum by (le, method) (rate(crib_call_duration_seconds_bucket{method=~"a|b"}[5m])) > 0.5', []),
        ("crib_ready == 0 and on (instance) up == 1", []),
    ],
)
def test_a_query_for_what_does_not_exist_is_found(query: str, expected: list[str]) -> None:
    assert problems(query) == expected


@pytest.mark.parametrize("query", ["sum(crib_pods", "crib_pods)", 'crib_pods{state="x"', "sum by (state"])
def test_a_query_with_a_bracket_missing_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match=r"bracket|missing"):
        parsed(query)
