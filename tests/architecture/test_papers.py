"""The papers name tests that exist, and link to pages and headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)")
"""To a file of ours, or to a part of one: `](path#part)`."""
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PAPERS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_every_test_that_a_paper_names_exists(paper: Path) -> None:
    for file, test in NAMED.findall(paper.read_text()):
        text = (ROOT / file).read_text()
        assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), (file, test)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(paper: Path) -> None:
    for path, part in LINK.findall(FENCED.sub("", paper.read_text())):
        target = (paper.parent / path).resolve() if path else paper
        assert target.exists(), path
        assert not part or part in headings(target), f"{path}#{part}"


def headings(paper: Path) -> set[str]:
    """What a link to a part of it may name: as GitHub and mkdocs make it of a heading."""
    lines = re.findall(r"^#+ (.+)$", FENCED.sub("", paper.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def test_the_boundaries_are_held_by_tests() -> None:
    assert len(NAMED.findall((ROOT / "docs" / "security.md").read_text())) > 40


SOURCE = "\n".join(path.read_text() for path in sorted(ROOT.glob("src/crib/**/*.py")))
MESSAGE = re.compile(r"^\| (.+?) \|", re.MULTILINE)


def test_every_message_of_the_troubleshooting_page_is_one_that_the_source_has() -> None:
    """The words between the parts that vary, each in the text of an error or a log line."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    source = re.sub(r'"\s*f?"', "", SOURCE)  # a text that is written in several pieces
    quoted = [text for cell in MESSAGE.findall(page) for text in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 25
    for text in quoted:
        for part in re.split(r"…|(?<!\w)\d+(?!\w)", text):
            assert part.strip(" :;()") in source, part
