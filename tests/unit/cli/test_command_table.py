"""docs/commands.md: each verb of crictl is a command here, and each command of the table has a help page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crib.cli import app

TABLE = Path(__file__).parents[3] / "docs/commands.md"
CRICTL = (
    *("attach", "checkpoint", "create", "events", "exec", "imagefsinfo", "images", "info", "inspect"),
    *("inspecti", "inspectp", "logs", "metricdescs", "metricsp", "pods", "port-forward", "ps", "pull", "rm"),
    *("rmi", "rmp", "run", "runp", "runtime-config", "start", "stats", "statsp", "stop", "stopp", "update"),
    *("update-runtime-config", "version"),
)
"""The verbs of crictl 1.34. Its completion and config are about crictl itself."""


def rows() -> list[list[str]]:
    """The cells of the first table, without its head."""
    first = TABLE.read_text().partition("\n## ")[0]
    lines = [line for line in first.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def commands() -> list[str]:
    """Every `crib …` of the last column, without its arguments."""
    found = []
    for row in rows():
        for words in re.findall(r"`crib ([a-z-]+(?: (?:ls|rm|prune|check|export))?)", row[-1]):
            found.append(words)
    return sorted(set(found))


@pytest.mark.parametrize("verb", CRICTL)
def test_each_verb_of_crictl_is_a_command(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app._ending([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: crib {verb}")
    assert any(f"`{verb}" in row[0] for row in rows()), f"docs/commands.md does not have crictl {verb}"


@pytest.mark.parametrize("words", commands())
def test_each_command_of_the_table_exists(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app._ending([*words.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: crib {words}")


def test_each_row_names_a_command_or_says_why_there_is_none() -> None:
    assert len(rows()) > 40
    for row in rows():
        assert len(row) == 5, row
        assert row[-1], row
