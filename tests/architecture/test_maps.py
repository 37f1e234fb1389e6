"""The docstring of a room's package is its map: every module of it is on it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "crib"
ROOMS = (
    "api",
    "backends",
    "backends/bundle",
    "backends/pods",
    "backends/streams",
    "engine",
    "host",
    "model",
    "ocispec",
    "ports",
    "streaming",
    "tasks",
    "ttrpc",
    "tunnel",
    "wire",
)


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_map_has_all_of_its_modules(room: str) -> None:
    package = SOURCE / room
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    named = set(re.findall(r"`([a-z0-9_]+)\b", text))
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = packages | {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert modules - named == set(), f"give each a word in src/crib/{room}/__init__.py"
