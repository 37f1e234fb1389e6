"""A kind of network is a row of one table; nobody above it knows the kinds by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from crib.backends.network.networks import KINDS

SRC = Path(__file__).resolve().parents[2] / "src" / "crib"
ABOVE = sorted(
    path
    for place in ("engine", "api", "streaming", "observe", "config", "ports", "daemon.py", "offline.py")
    for path in (SRC / place, *(SRC / place).rglob("*.py"))
    if path.is_file()
)


def compared(tree: ast.AST) -> Iterator[str]:
    """Strings that some value is compared with, or matched against."""
    for node in ast.walk(tree):
        operands: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        for operand in operands:
            for inner in ast.walk(operand):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.value


def test_nobody_above_the_table_compares_the_name_of_a_kind() -> None:
    assert len(ABOVE) > 50
    guilty = [path for path in ABOVE if KINDS.keys() & set(compared(ast.parse(path.read_text())))]
    assert not guilty, "ask the port instead"
