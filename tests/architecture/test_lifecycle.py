"""Every state of a record comes from the tables of `crib.model.lifecycle`, and so does their picture."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from crib.model.lifecycle import CONTAINER_MOVES, SANDBOX_MOVES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "crib"
MOVES = {"move_container", "move_sandbox", "move_volume", "move_use", "move_snapshot"}
RECORDS = {"ContainerRecord", "SandboxRecord", "VolumeRecord", "VolumeUse", "SnapshotRecord"}
BEGIN, END = "<!-- states: made from model/lifecycle.py -->\n\n", "\n<!-- end of states -->"


def back_doors(tree: ast.Module) -> Iterator[str]:
    """Every place that gives a record a state which is no answer of the tables for that very record."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    scopes: list[ast.AST] = [*functions] or [tree]
    for scope in scopes:
        moved: dict[str, str] = {}
        for node in sorted(
            (node for node in ast.walk(scope) if isinstance(node, ast.Assign | ast.Call)),
            key=lambda node: (node.end_lineno, node.end_col_offset),
        ):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    moved.pop(name, None)
                    if (record := _moved(value)) is not None:
                        moved[name] = record
                case ast.Call(func=ast.Name(id="replace"), args=[first], keywords=changes):
                    for change in changes:
                        if change.arg == "state":
                            named = moved.get(ast.unparse(change.value))
                            if (_moved(change.value) or named) != ast.unparse(first):
                                yield ast.unparse(node)
                        elif change.arg is None and "state" in ast.unparse(change.value):
                            yield ast.unparse(node)
                case ast.Call(func=ast.Name(id=name), keywords=values) if name in RECORDS:
                    for given in values:
                        if given.arg == "state" and not ast.unparse(given.value).endswith("State.CREATING"):
                            yield ast.unparse(node)
                case ast.Call(args=[_, ast.Constant(value="state"), *_]) if "setattr" in ast.unparse(
                    node.func
                ):
                    yield ast.unparse(node)


def _moved(value: ast.expr) -> str | None:
    """The record that the tables are asked about; None where they are not asked."""
    match value:
        case ast.Call(func=ast.Name(id=name), args=[record, _]) if name in MOVES:
            return ast.unparse(record)
    return None


def test_a_record_moves_by_the_tables_only() -> None:
    found = {
        str(path.relative_to(SOURCE)): doors
        for path in SOURCE.rglob("*.py")
        if "stubs" not in path.parts and (doors := list(back_doors(ast.parse(path.read_text()))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "replace(record, state=ContainerState.EXITED, reason='x')",
        "replace(record, state=state)",
        "state = record.state\nreplace(record, state=state)",
        "state = move_container(other, ContainerVerb.EXIT)\nreplace(record, state=state)",
        "state = move_container(record, ContainerVerb.EXIT)\nstate = S.READY\nreplace(record, state=state)",
        "replace(record, state=move_container(other, ContainerVerb.EXIT))",
        "replace(record, **{'state': ContainerState.EXITED})",
        "SandboxRecord(id=key, state=SandboxState.READY)",
        "object.__setattr__(record, 'state', SandboxState.READY)",
    ],
)
def test_a_back_door_is_seen(text: str) -> None:
    assert list(back_doors(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "replace(record, reason='x')",
        "replace(record, state=move_container(record, ContainerVerb.EXIT))",
        "state = move_sandbox(record, SandboxVerb.RUN)\nrecord = table.put(replace(record, state=state))",
        "SandboxRecord(id=key, state=SandboxState.CREATING)",
    ],
)
def test_the_front_door_is_none(text: str) -> None:
    assert not list(back_doors(ast.parse(text)))


def picture(noun: str, moves: Mapping[Any, Mapping[Any, StrEnum]]) -> str:
    """A row for each verb: where it leads from each state; a dash where it is refused."""
    kind: Any = type(next(iter(moves["remove"])))
    states: list[StrEnum] = list(kind)  # a StrEnum is its value
    lines = [f"| {noun} | {' | '.join(states)} |", f"|---|{'---|' * len(states)}"]
    for verb, targets in moves.items():
        cells = ("stays" if targets.get(state) is state else str(targets.get(state, "–")) for state in states)
        lines.append(f"| {verb} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_the_picture_of_the_states_is_that_of_the_tables() -> None:
    wanted = f"{picture('pod sandbox', SANDBOX_MOVES)}\n{picture('container', CONTAINER_MOVES)}"
    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = text.partition(BEGIN)[2].partition(END)[0]
    assert drawn == wanted, f"put this between the marks in ARCHITECTURE.md:\n\n{wanted}"
