"""The papers name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PAPERS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_every_test_that_a_paper_names_exists(paper: Path) -> None:
    for file, test in NAMED.findall(paper.read_text()):
        text = (ROOT / file).read_text()
        assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), (file, test)


def test_the_boundaries_are_held_by_tests() -> None:
    assert len(NAMED.findall((ROOT / "docs" / "security.md").read_text())) > 40
