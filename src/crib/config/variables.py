"""Settings from the environment: CRIBD_ and the key, as CRIBD_LOG_LEVEL for log.level.

The value of a string is its text; every other value is written as in the file: 5, true, ["a", "b"].
Keys of handlers have no variables, because a handler's name may be anything.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
from collections.abc import Mapping
from typing import Any

from crib.config.document import Table, check_value
from crib.config.faults import Fault
from crib.config.places import Path, dotted
from crib.model.keys import keys_of, unwrapped
from crib.model.settings import Settings

PREFIX = "CRIBD_"


@functools.cache
def variables() -> Mapping[str, tuple[str, ...]]:
    """The key of each variable."""
    return dict(_of_table(Settings, ()))


def from_environment(environment: Mapping[str, str], faults: list[Fault]) -> tuple[Table, Mapping[Path, str]]:
    """What it sets, and the variable by which each key is set. A variable that sets no key is a fault."""
    table: Table = {}
    by: dict[Path, str] = {}
    for name, text in sorted(environment.items()):
        if name.startswith(PREFIX):
            problems, value = _value(name, text)
            faults += (Fault(name, problem) for problem in problems)
            if not problems:
                path = variables()[name]
                inner = table
                for part in path[:-1]:
                    inner = inner.setdefault(part, {})
                inner[path[-1]] = value
                by[path] = name
    return table, by


def _value(name: str, text: str) -> tuple[list[str], Any]:
    """What is wrong, and the value where nothing is."""
    path = variables().get(name)
    if path is None:
        near = difflib.get_close_matches(name, variables(), n=1)
        return [f"sets no key{f', did you mean {near[0]}?' if near else ''}"], None
    hint: Any = Settings
    for part in path:
        hint = keys_of(unwrapped(hint)[0])[part]
    value: Any = text
    if unwrapped(hint)[0] is not str:
        try:
            read = tomllib.loads(f"value = {text}")
        except (tomllib.TOMLDecodeError, RecursionError):
            read = {}
        if read.keys() != {"value"}:
            return [f"{dotted(path)} must be one value as in a file, and is {text!r}"], None
        value = read["value"]
    problems: list[str] = []
    check_value(hint, value, path, lambda _, problem: problems.append(problem))
    return problems, value


def _of_table(kind: type, path: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for name, hint in keys_of(kind).items():
        inner, bare = (*path, name), unwrapped(hint)[0]
        if isinstance(bare, type) and dataclasses.is_dataclass(bare):
            found += _of_table(bare, inner)
        elif inner != ("handlers",):
            found.append((PREFIX + "_".join(inner).upper(), inner))
    return found
