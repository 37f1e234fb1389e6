"""`crib config check` finds what cribd itself would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.cli.config import check_file


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("[handlers.crun]\n", 0, "ok"),
        ('[handlers.crun]\n[handlers.x]\nkind = "nosuch"\n', 1, "handlers.x.kind is 'nosuch'"),
        ('[network]\nmode = "nosuch"\n', 1, "network.mode"),
        ("pids_limit = -1\nlog_fils = 3\n", 1, "unknown key log_fils"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_unknown_kinds_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, code: int, told: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    assert check_file(str(file)) == code
    assert told in "".join(capfd.readouterr())
