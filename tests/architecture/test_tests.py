"""How the tests are arranged: what two of them share has a module of its own, which is no test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


def imported(path: Path) -> Iterator[str]:
    """Modules, and the names taken from them, which may be modules too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_collected(module: str) -> bool:
    """Whether pytest loads it by itself."""
    room, *rest = module.split(".")
    return room == "tests" and any(part == "conftest" or part.startswith("test_") for part in rest)


def test_no_module_imports_a_test_module_or_a_conftest() -> None:
    wrong = [
        f"{path.relative_to(TESTS)}: {module}"
        for path in sorted(TESTS.rglob("*.py"))
        for module in imported(path)
        if is_collected(module)
    ]
    assert wrong == [], "what two tests share goes into a module that is no test"


SLEEPS = ("asyncio.sleep", "time.sleep")


def waits(path: Path) -> Iterator[int]:
    """Lines that sleep for a while; asyncio.sleep(0) only gives others a turn."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    for call in calls:
        if ast.unparse(call.func) in SLEEPS and ast.unparse(call.args[0]) != "0":
            yield call.lineno


def test_each_sleep_has_a_comment_that_says_why() -> None:
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        lines = path.read_text().splitlines()
        wrong += [
            f"{path.relative_to(TESTS)}:{line}"
            for line in waits(path)
            if not any("#" in near for near in lines[line - 3 : line])
        ]
    assert wrong == [], "STYLE.md names the three kinds of sleep that are left"
