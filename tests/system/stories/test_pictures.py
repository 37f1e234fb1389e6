"""The pictures of the documentation are made from what crib says, and load nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORDS = {"ps": "visitor", "timeline": "CreateContainer", "top": "MEMORY", "network": "masquerade"}


def text_of(picture: Path) -> str:
    return re.sub(r"<[^>]*>|&#160;", " ", picture.read_text())


@pytest.mark.nightly
@pytest.mark.root
@pytest.mark.system
def test_the_pictures_can_be_made_again(tmp_path: Path) -> None:
    command = [sys.executable, "script/pictures", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    for name, word in WORDS.items():
        assert word in text_of(tmp_path / f"{name}.svg")


@pytest.mark.parametrize("name", WORDS)
def test_the_pictures_of_the_papers_are_there_and_load_nothing(name: str) -> None:
    picture = ROOT / "docs" / "pictures" / f"{name}.svg"
    assert WORDS[name] in text_of(picture)
    assert not re.search(r"url\((?!#)|href|@import|<script", picture.read_text())
