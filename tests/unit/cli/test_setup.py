"""`crib setup` tells what was found, and writes only what was agreed to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crib.cli import setup
from crib.cli.config_options import SetupOptions
from crib.cli.session import CommandError

FINDINGS = [
    {"area": "kernel", "subject": "version", "state": "ok", "text": "6.1", "cure": ""},
    {"area": "kernel", "subject": "erofs", "state": "note", "text": "not loaded", "cure": "modprobe erofs"},
    {
        "area": "programs",
        "subject": "crun",
        "state": "problem",
        "text": "not here",
        "cure": "apt install crun",
    },
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the program behind it says."""
    document: dict[str, Any] = {"findings": list(FINDINGS), "offers": []}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0, json.dumps(document).encode())

    monkeypatch.setattr(subprocess, "run", run)
    return document


def test_what_is_not_ok_is_shown_with_what_to_do(
    found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup.setup(SetupOptions()) == 1
    assert capsys.readouterr().out == (
        "kernel\n"
        "  note     erofs: not loaded\n"
        "           → modprobe erofs\n"
        "programs\n"
        "  problem  crun: not here\n"
        "           → apt install crun\n"
        "1 problems, 1 notes, 1 ok (--all shows them)\n"
    )
    del found["findings"][2]
    assert setup.setup(SetupOptions(all=True)) == 0
    assert "  ok       version: 6.1\n" in capsys.readouterr().out


def test_a_file_is_written_when_agreed_and_keeps_its_mode(
    found: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, new = tmp_path / "crictl.yaml", tmp_path / "unit.d" / "20-crib.conf"
    there.write_text("old\n")
    there.chmod(0o600)
    found["offers"] = [
        {"path": str(there), "before": "old\n", "after": "new\n", "then": ""},
        {"path": str(new), "before": "", "after": "[Unit]\n", "then": "systemctl daemon-reload"},
    ]
    assert setup.setup(SetupOptions(write=True, yes=True)) == 0
    assert (there.read_text(), there.stat().st_mode & 0o777) == ("new\n", 0o600)
    assert (new.read_text(), new.stat().st_mode & 0o777) == ("[Unit]\n", 0o644)
    said = capsys.readouterr().out
    assert f"--- {there}\n+++ {there}\n@@ -1 +1 @@\n-old\n+new\nwrote {there}\n" in said
    assert said.endswith(f"wrote {new}\nnow run: systemctl daemon-reload\n")
    assert [path.name for path in tmp_path.iterdir()] == ["crictl.yaml", "unit.d"]


def test_without_a_terminal_nothing_is_written_unasked(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "crictl.yaml"
    found["offers"] = [{"path": str(path), "before": "", "after": "new\n", "then": ""}]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(CommandError, match="no terminal to ask; use --yes"):
        setup.setup(SetupOptions(write=True))
    assert not path.exists()
