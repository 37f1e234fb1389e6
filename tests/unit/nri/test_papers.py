"""The page about plugins shows the example as it is, and names methods that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from crib import nri
from crib.nri.changes import Adjustment
from tests.unit.nri.lab import EXAMPLES

PAGE = (Path(__file__).parents[3] / "docs" / "nri-plugins.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_page_shows_the_example_as_it_is() -> None:
    assert BLOCKS[0] == (EXAMPLES / "open_files.py").read_text()
    assert len(BLOCKS[0].splitlines()) <= 21


def test_what_else_it_shows_is_python() -> None:
    for block in BLOCKS[1:]:
        compile(block, "nri-plugins.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_it_names_every_method_of_a_plugin() -> None:
    methods = {name for name in vars(nri.NodePlugin) if not name.startswith("_")}
    cells = re.findall(r"^\| (.*?) \|", section("Events"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", "".join(cells))) == methods


def test_it_names_every_method_of_an_adjustment() -> None:
    methods = {name for name in dir(Adjustment) if not name.startswith("_")} - {"resources"}
    assert methods == set(re.findall(r"`(\w+)(?=[`(])", section("Adjustments")))
