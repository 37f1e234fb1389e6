"""One TOML file, checked on its own, so that each fault can be told with its place."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

from crib.config.faults import Fault
from crib.config.places import Path, Say, Spot, dotted, places
from crib.config.renamed import RENAMED, take_old_names
from crib.config.values import problem
from crib.model.keys import Bound, keys_of, unwrapped

Table = dict[str, Any]

_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")
_AT_END = " (at end of document)"


class Document:
    """A TOML file. `name` is for messages, `kind` the class of settings whose keys the text may set."""

    def __init__(self, name: str, text: str, kind: type) -> None:
        self.name = name
        self._text = text
        self._kind = kind
        self._renamed: Mapping[Path, Path] = {}

    def table(self, faults: list[Fault]) -> Table:
        """Its content; what is wrong is added to `faults`, and all of it is looked for."""

        def say(path: Path, text: str) -> None:
            faults.append(Fault(self.place(path), text))

        try:
            table = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            faults.append(self._no_toml(str(error)))
            return {}
        except RecursionError:
            faults.append(Fault(self.name, "arrays or tables are nested too deeply"))
            return {}
        self._renamed = take_old_names(table, say)
        check_table(self._kind, table, (), say)
        return table

    def _no_toml(self, text: str) -> Fault:
        if found := _AT.search(text):
            return Fault(f"{self.name}:{found[1]}:{found[2]}", text[: found.start()])
        return Fault(f"{self.name}:{self._text.count(chr(10)) + 1}", text.removesuffix(_AT_END))

    @property
    def deprecated(self) -> Sequence[Fault]:
        """Keys that it calls by an old name."""
        return tuple(
            Fault(self.place(now), f"{dotted(old)} is called {dotted(now)} since crib {RENAMED[old].since}")
            for now, old in self._renamed.items()
        )

    def place(self, path: Path) -> str:
        """FILE:LINE:COLUMN of a key, or of what it is in; FILE if the text does not have it."""
        path = self._renamed.get(path, path)
        while path and path not in self._spots:
            path = path[:-1]
        return f"{self.name}:{self._spots[path].line}:{self._spots[path].column}" if path else self.name

    @functools.cached_property
    def _spots(self) -> Mapping[Path, Spot]:
        """Looked for when the first is wanted: a start needs none."""
        return places(self._text)


def check_table(kind: type, table: Table, path: Path, say: Say) -> None:
    """Check keys, types and bounds of everything in the table."""
    keys = keys_of(kind)
    for name, value in table.items():
        inner = (*path, name)
        if name in keys:
            check_value(keys[name], value, inner, say)
        else:
            near = difflib.get_close_matches(name, keys, n=1)
            hint = f", did you mean {dotted((*path, near[0]))}?" if near else ""
            say(inner, f"unknown key {dotted(inner)}{hint}")


def check_value(hint: Any, value: Any, path: Path, say: Say) -> None:
    """Check the type and bounds of the value and of everything inside it."""
    kind, bounds = unwrapped(hint)
    is_table = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    shape = get_origin(kind)
    if is_table or shape is Mapping:
        if not isinstance(value, dict):
            say(path, f"{dotted(path)} must be a table")
        elif is_table:
            check_table(kind, value, path, say)
        else:
            of_names, of_values = get_args(kind)
            for name, element in value.items():
                inner = (*path, name)
                if wanted := _wanted(unwrapped(of_names)[1], name):
                    say(inner, f"{dotted(inner)}: the name must be {wanted}")
                else:
                    check_value(of_values, element, inner, say)
    elif shape is tuple:
        if not isinstance(value, list):
            say(path, f"{dotted(path)} must be an array")
            return
        for number, element in enumerate(value):
            check_value(get_args(kind)[0], element, (*path, number), say)
    elif text := next(_faults_of_scalar(kind, bounds, value), ""):
        say(path, f"{dotted(path)} {text}")


def _faults_of_scalar(kind: Any, bounds: tuple[Bound, ...], value: Any) -> Iterator[str]:
    types = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    accepts: dict[Any, tuple[type, ...]] = {float: (int, float)}
    is_bool = isinstance(value, bool)
    if isinstance(kind, UnionType):
        if not isinstance(value, kind):
            yield f"must be {', '.join(types[one] for one in get_args(kind))}"
            return
        kind = type(value)
    if not (is_bool if kind is bool else isinstance(value, accepts.get(kind, (kind,))) and not is_bool):
        yield f"must be {types[kind]}"
        return
    if wanted := _wanted(bounds, value):
        yield f"is {value!r}, and must be {wanted}"
    if isinstance(value, float) and not math.isfinite(value):
        yield "must be a finite number"
    if isinstance(value, str) and not (value.isprintable() or not value):
        yield "has control characters in it"


def _wanted(bounds: tuple[Bound, ...], value: Any) -> str:
    """What the value must be, by the first bound that it breaks."""
    return next(filter(None, (problem(bound, value) for bound in bounds)), "")


def lay_over(table: Table, other: Table) -> None:
    """Let the values of `other` replace those of `table`. Only tables are merged."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            lay_over(table[key], value)
        else:
            table[key] = value


def leaves(table: Table, path: Path = ()) -> Iterator[Path]:
    """The paths of what tables in tables say in the end; an empty table says something too."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)
