"""The documentation becomes a site without a dead link."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
def test_the_site_is_built_and_has_every_page() -> None:
    """It installs what builds it, hence by night. mkdocs itself refuses links that lead nowhere."""
    built = subprocess.run(
        ["script/site"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.stem for path in ROOT.glob("docs/*.md")}
    assert pages <= {path.stem for path in (ROOT / "build" / "site").glob("*.html")}
    assert (ROOT / "build" / "site" / "project" / "architecture.html").exists()
