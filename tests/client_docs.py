"""The programs of docs/client.md, each with what it is said to print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGE = "docker.io/library/busybox:1.36"
"""What the examples run."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """`said` is None where the page does not show what it prints."""

    section: str
    number: int
    text: str
    said: str | None

    def __str__(self) -> str:
        return f"{self.section} {self.number}"


def examples() -> list[Example]:
    """All, in order. What a block prints is in the next `text` block of its section."""
    found = []
    for section in re.split(r"^## ", (ROOT / "docs" / "client.md").read_text(), flags=re.MULTILINE)[1:]:
        blocks = [(match[1], match[2]) for match in _FENCE.finditer(section)]
        for number, (kind, text) in enumerate(blocks):
            if kind == "python":
                said = next((other for name, other in blocks[number:] if name == "text"), None)
                found.append(Example(section.partition("\n")[0], number, text, said))
    return found


def is_a_test(example: Example) -> bool:
    """Whether pytest runs it."""
    return "def test_" in example.text


def needs_a_registry(example: Example) -> bool:
    """Whether it pulls."""
    return "crib.pull(" in example.text
