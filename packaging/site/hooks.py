"""What mkdocs is told beyond mkdocs.yml: the pages of the repository's root are pages of the site, too.

Links that leave `docs` lead to those pages, or to a copy of the file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "README.md": "project/readme.md",
    "SECURITY.md": "project/security.md",
    "STYLE.md": "project/style.md",
}
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
"""A link to a file: `](path#part)`."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages, and copies of files that are no pages and that something links to."""
    for name, place in PAGES.items():
        page = File.generated(config, place, content=(ROOT / name).read_text())
        files.append(page)
    for page in files.documentation_pages():
        for link in _LINK.finditer(page.content_string):
            target = _from_root(page.src_uri, link[2]) or ""
            place = f"files/{target}"
            if not target.endswith(".md") and (ROOT / target).is_file() and place not in files.src_uris:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave `docs` to where the file is on the site."""
    place = page.file.src_uri

    def led(link: re.Match[str]) -> str:
        target = _from_root(place, link[2])
        if target is None:
            return link[0]
        if target.startswith("docs/"):
            there = target.removeprefix("docs/")
        else:
            there = PAGES.get(target) or f"files/{target}"
        return f"{link[1]}{'../' * place.count('/')}{there}{link[3]}"

    return _LINK.sub(led, markdown)


def _from_root(place: str, link: str) -> str | None:
    """The path from the repository's root of what a page links to; None where mkdocs finds it by itself."""
    home = next((name for name, at in PAGES.items() if at == place), None)
    if home is not None:
        return link
    target = os.path.normpath(os.path.join("docs", os.path.dirname(place), link))
    return None if target.startswith("docs/") else target
