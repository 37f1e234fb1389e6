"""`python -m crib.config`, the program behind what `crib config` does without a daemon."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from crib.config.__main__ import main
from crib.config.defaults import default_config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text("pids_limit = 5\n")
    return tmp_path / "config.toml"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["crib config", *map(str, arguments)])
    return main()


def test_a_check_tells_every_fault_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert run(monkeypatch, "check", "--file", file) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"
    file.write_text("pids_limit = -5\nx = 1\n")
    monkeypatch.setenv("CRIBD_NICE", "7")
    assert run(monkeypatch, "check", "--file", file) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{file}:1:1: pids_limit is -5, and must be at least 0",
        f"{file}:2:1: unknown key x",
        "CRIBD_NICE: nice is 7, and must be -20 to 0",
    ]
    assert run(monkeypatch, "check", "--file", file.with_name("none.toml")) == 1
    assert "No such file" in capsys.readouterr().err


def test_what_is_shown_is_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert run(monkeypatch, "show", "--file", file) == 0
    found = json.loads(capsys.readouterr().out)
    (limit,) = (one for one in found["keys"] if one["key"] == "pids_limit")
    assert limit == {
        "key": "pids_limit",
        "value": "5",
        "default": "0",
        "origin": f"{file}:1:1",
        "is_live": True,
    }
    assert found["files"] == [str(file)]


def test_defaults_and_schema_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "default") == 0
    assert capsys.readouterr().out == default_config()
    assert run(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["pids_limit"]["type"] == "integer"


def test_an_import_goes_to_the_output_and_its_report_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.toml"
    theirs.write_text('version = 2\n[debug]\nlevel = "debug"\n')
    assert run(monkeypatch, "import", "--file", theirs) == 0
    said = capsys.readouterr()
    assert said.out == f'# made by crib config import of {theirs}\n[log]\nlevel = "debug"\n'
    assert f"carried  {theirs}:3:1: debug.level → log.level\n" in said.err
    theirs.write_text("version = 1\n")
    assert run(monkeypatch, "import", "--file", theirs) == 1
    assert capsys.readouterr() == ("", f"{theirs}: is of version 1; 2 and 3 are read\n")
