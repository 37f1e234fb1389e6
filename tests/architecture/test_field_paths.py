"""Below the door the path of a field begins in its noun: where nouns stand in requests only `api` knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src" / "crib"
BELOW = ("engine", "backends", "ocispec", "ports", "host", "streaming", "model")
PLACES = ("config.", "config[", "sandbox_config", "runtime_config.")
"""How paths begin that only a whole request has."""


FILES = {"config.json", "config.toml"}
"""Names of files, which begin alike."""


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings of the code, and the beginnings of those that are put together; not docstrings."""
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_no_path_of_a_field_begins_in_a_request() -> None:
    files = [path for place in BELOW for path in (SRC / place).rglob("*.py")]
    assert len(files) > 200
    guilty = [
        f"{path.relative_to(SRC)}:{line}: {text}"
        for path in files
        for line, text in texts(ast.parse(path.read_text()))
        if text.startswith(PLACES) and text not in FILES
    ]
    assert guilty == []
