"""Every command of `crib` by its words, as typer knows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from crib.cli import app

ROOT: Any = get_command(app.app)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{path} {name}")


EVERY: dict[str, Any] = dict(_commands(ROOT, "crib"))
