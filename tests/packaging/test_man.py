"""The manual pages: one for each command, with all of its options, and no fault that a formatter sees."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from crib.cli.app import app
from tests.packaging.builder import ROOT, output


@pytest.fixture(scope="module")
def man(tmp_path_factory: pytest.TempPathFactory) -> Path:
    share = tmp_path_factory.mktemp("share")
    output(sys.executable, ROOT / "script/man", share)
    return share / "man"


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{path}-{name}")


def test_each_command_has_a_page_with_each_of_its_options(man: Path) -> None:
    wanted = dict(commands(get_command(app), "crib"))
    assert {path.name for path in (man / "man1").iterdir()} == {f"{name}.1.gz" for name in wanted}
    for name, command in wanted.items():
        text = gzip.decompress((man / f"man1/{name}.1.gz").read_bytes()).decode()
        assert text.startswith(f".TH {name.upper()} 1 ".replace("-", "\\-"))
        for option in (word for param in command.params for word in param.opts if word.startswith("--")):
            assert option.replace("-", "\\-") in text, (name, option)


def test_the_page_of_the_configuration_has_every_key(man: Path) -> None:
    page = gzip.decompress((man / "man5/crib.toml.5.gz").read_bytes()).decode()
    keys = [line[1:] for line in output(sys.executable, "-m", "crib.daemon", "--default-config").splitlines()]
    keys = [key.partition(" = ")[0] for key in keys if " = " in key and not key.startswith(" ")]
    assert len(keys) > 50
    assert [key for key in keys if f"\\fB{key} = " not in page.replace("\\-", "-")] == []


def test_the_page_of_the_daemon_has_its_options(man: Path) -> None:
    page = gzip.decompress((man / "man8/cribd.8.gz").read_bytes()).decode()
    for option in ("--config", "--check-config", "--wipe", "--repair"):
        assert option.replace("-", "\\-") in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_a_formatter_finds_no_fault(man: Path) -> None:
    pages = b"\n".join(gzip.decompress(path.read_bytes()) for path in sorted(man.rglob("*.gz")))
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=pages, capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_same_source_gives_the_same_pages(man: Path, tmp_path: Path) -> None:
    output(sys.executable, ROOT / "script/man", tmp_path)
    for path in (*man.glob("man1/crib-r*"), man / "man8/cribd.8.gz"):
        assert (tmp_path / "man" / path.relative_to(man)).read_bytes() == path.read_bytes()


def test_the_page_of_all_commands_is_what_they_say(tmp_path: Path) -> None:
    made = tmp_path / "reference.md"
    output(sys.executable, ROOT / "script/man", "--markdown", made)
    fresh = "make it again: script/man --markdown docs/reference.md"
    assert (ROOT / "docs" / "reference.md").read_text() == made.read_text(), fresh
