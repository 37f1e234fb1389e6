"""The walls of the house: who imports whom, how large things are, where waiting is allowed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "crib"
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 5

ALLOWED_MODULES: dict[str, int] = {}
"""Modules over the limit and their length. This list only shrinks."""
ALLOWED_FUNCTIONS: dict[str, int] = {}
"""Functions over a limit (`file:function`). This list only shrinks."""

BANNED_NAMES = {"util", "utils", "helpers", "helper", "common", "manager", "misc"}
ROOMS_WITHOUT_WAITING = ("model", "wire", "ocispec")
ROOMS_WITHOUT_PROGRAMS = ("backends/bundle", "backends/pods", "backends/container_bundles.py")
RUNTIMES = re.compile(r"\b(?:crun|runc|conmon)\b", re.IGNORECASE)


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if "stubs" not in path.relative_to(SOURCE).parts)


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the function without its docstring."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def is_a_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command line's options are its parameters: typer reads them from the signature."""
    return any(
        isinstance(item, ast.Call)
        and isinstance(item.func, ast.Attribute)
        and item.func.attr in ("command", "callback")
        for item in node.decorator_list
    )


def test_arrows_between_rooms_are_those_of_the_drawing() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_module_is_longer_than_the_limit_but_those_on_the_list() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in modules()}
    too_long = {name: length for name, length in lengths.items() if length > LONGEST_MODULE}
    assert too_long.keys() == ALLOWED_MODULES.keys(), (
        "the list may only shrink, and what became good is taken off"
    )
    assert all(length <= ALLOWED_MODULES[name] for name, length in too_long.items()), too_long


def test_no_function_is_longer_or_wider_than_the_limit_but_those_on_the_list() -> None:
    found = {}
    for path in modules():
        for node in functions(path):
            wide = parameters(node) > MOST_PARAMETERS and not is_a_command(node)
            if body_length(node) > LONGEST_FUNCTION or wide:
                found[f"{name_of(path)}:{node.name}"] = max(body_length(node), parameters(node))
    assert found.keys() == ALLOWED_FUNCTIONS.keys(), found


def test_no_module_is_named_for_nothing() -> None:
    assert [name_of(path) for path in modules() if path.stem in BANNED_NAMES] == []


@pytest.mark.parametrize("room", ROOMS_WITHOUT_PROGRAMS)
def test_rooms_for_every_kind_of_handler_name_no_runtime(room: str) -> None:
    naming = [
        f"{name_of(path)}: {line.strip()}"
        for path in modules()
        if path.is_relative_to(SOURCE / room)
        for line in path.read_text().splitlines()
        if RUNTIMES.search(line)
    ]
    assert naming == []


@pytest.mark.parametrize("room", ROOMS_WITHOUT_WAITING)
def test_rooms_without_input_and_output_do_not_wait(room: str) -> None:
    waiting = [
        f"{name_of(path)}:{node.name}"
        for path in modules()
        if path.is_relative_to(SOURCE / room)
        for node in functions(path)
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert waiting == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [name_of(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_backends_turn_the_kernels_errors_into_words_in_one_module() -> None:
    """Else than there an OSError is only raised again, in the processes that read images."""
    users = {
        name_of(path)
        for path in modules()
        if path.is_relative_to(SOURCE / "backends")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "strerror" and ast.unparse(node.value) != "os"
    }
    assert users == {
        "backends/failures.py",
        *(f"backends/images/worker/{name}.py" for name in ("layer_file", "spool")),
        "backends/images/unpacked/tree_writer.py",
    }
