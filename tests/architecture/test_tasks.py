"""In the daemon one room starts tasks, `crib.tasks`, whatever the spelling.

Programs and the client library live outside of it, and may not import it: there asyncio's own TaskGroup holds
tasks, or the function that began one and ends it (ruff's RUF006 sees that it is held at all).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "crib"
STARTERS = {
    "Runner",
    "TaskGroup",
    "as_completed",
    "create_task",
    "ensure_future",
    "gather",
    "run",
    "run_coroutine_threadsafe",
    "wait_for",
}
"""Of asyncio: each makes a task of a coroutine."""
METHODS = {"create_task", "run_until_complete", "set_task_factory"}
"""Of loops and groups."""
KEEPERS_OWN = {"part", "start", "begin", "serve"}
"""What a keeper or a group starts is a task already: it may be shielded."""
ELSEWHERE = (
    *(
        "bench",
        "conform",
        "cli",
        "client",
        "manifest",
        "nri",
        "setup",
        "stubs",
        "supervisor",
        "tasks",
        "testing",
    ),
)
MAINS = {
    "daemon.py": ["asyncio.Runner"],
    "backends/images/worker/main.py": ["asyncio.run"],
    "vm/boot.py": ["asyncio.run"],
    "vm/shim/serve.py": ["asyncio.run"],
}
"""Each begins a process with its first task."""


def starts(tree: ast.AST) -> Iterator[str]:
    """Every place that makes a task, as it is spelled there."""
    modules, names = {"asyncio"}, set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {item.asname for item in node.names if item.name == "asyncio" and item.asname}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asyncio":
            names |= {item.asname or item.name for item in node.names if item.name in STARTERS}
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="shield") | ast.Name(id="shield"), args=[ast.Call(func=made)]
            ) if not (isinstance(made, ast.Attribute) and made.attr in KEEPERS_OWN):
                yield "shield of a coroutine"
            case ast.Call(func=ast.Attribute(attr="Task") | ast.Name(id="Task")):
                yield "Task()"
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules:
                if name in STARTERS:
                    yield f"asyncio.{name}"
            case ast.Attribute(attr=name) if name in METHODS:
                yield f".{name}"
            case ast.Name(id=name) if name in names:
                yield name


def test_only_the_room_of_tasks_starts_one() -> None:
    found = {
        str(path.relative_to(SOURCE)): list(starts(ast.parse(path.read_text())))
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] not in ELSEWHERE
    }
    assert {name: spelled for name, spelled in found.items() if spelled} == MAINS


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio; asyncio.create_task(work())",
        "import asyncio; asyncio.ensure_future(work())",
        "import asyncio as a; a.ensure_future(work())",
        "from asyncio import ensure_future; ensure_future(work())",
        "from asyncio import ensure_future as begin; begin(work())",
        "from asyncio.tasks import gather; gather(work())",
        "asyncio.get_running_loop().create_task(work())",
        "loop = asyncio.get_running_loop(); begin = loop.create_task; begin(work())",
        "async def f(): \n async with asyncio.TaskGroup() as group: group.create_task(work())",
        "group: asyncio.TaskGroup",
        "asyncio.gather(work(), work())",
        "asyncio.wait_for(work(), 1)",
        "asyncio.as_completed([work()])",
        "asyncio.Task(work())",
        "asyncio.run_coroutine_threadsafe(work(), loop)",
        "asyncio.shield(work())",
        "asyncio.shield(self._work(1))",
        "loop.run_until_complete(work())",
    ],
)
def test_each_spelling_of_a_start_is_seen(text: str) -> None:
    assert list(starts(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "asyncio.shield(task)",
        "asyncio.shield(HANDS.part('work', work()))",
        "asyncio.wait([task])",
        "asyncio.get_running_loop().create_future()",
        "self.keeper.start('work', work())",
    ],
)
def test_what_starts_no_task_is_left_alone(text: str) -> None:
    assert not list(starts(ast.parse(text)))
