"""One TOML file, checked on its own, so that errors can name the line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NoReturn, get_args, get_origin

from crib.config.values import problem
from crib.model.keys import Bound, keys_of, unwrapped

Table = dict[str, Any]
_Path = tuple[str, ...]

_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_HEADER = re.compile(r"\s*\[\[?\s*([^\]]*?)\s*\]\]?\s*(?:#.*)?$")


class ConfigError(Exception):
    """A configuration that cannot be used; the message says where and why."""


class Document:
    """`name` is for messages, `kind` the class of settings whose keys the text may set."""

    def __init__(self, name: str, text: str, kind: type) -> None:
        self._name = name
        self._text = text
        self._kind = kind

    def table(self) -> Table:
        """Its content; every value has the right type and is within its bounds. Raises ConfigError."""
        try:
            table = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self._name}: {error}") from error
        self._check_table(self._kind, table, ())
        return table

    def _check_table(self, kind: type, table: Table, path: _Path) -> None:
        keys = keys_of(kind)
        for name, value in table.items():
            inner = (*path, name)
            if name not in keys:
                near = difflib.get_close_matches(name, keys, n=1)
                hint = f", did you mean {'.'.join((*path, near[0]))}?" if near else ""
                self._refuse(inner, f"unknown key {'.'.join(inner)}{hint}")
            self._check(keys[name], value, inner)

    def _check(self, hint: Any, value: Any, path: _Path) -> None:
        """Check the type and bounds of the value and of everything inside it."""
        kind, bounds = unwrapped(hint)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            self._expect(isinstance(value, dict), path, "a table")
            self._check_table(kind, value, path)
        elif get_origin(kind) is tuple:
            self._expect(isinstance(value, list), path, "an array")
            for element in value:
                self._check(get_args(kind)[0], element, path)
        elif get_origin(kind) is Mapping:
            self._expect(isinstance(value, dict), path, "a table")
            of_names, of_values = get_args(kind)
            for name, element in value.items():
                inner = (*path, name)
                if wanted := _wanted(unwrapped(of_names)[1], name):
                    self._refuse(inner, f"{'.'.join(inner)}: the name must be {wanted}")
                self._check(of_values, element, inner)
        else:
            self._check_scalar(kind, bounds, value, path)

    def _check_scalar(self, kind: Any, bounds: tuple[Bound, ...], value: Any, path: _Path) -> None:
        types = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
        accepts: dict[Any, tuple[type, ...]] = {float: (int, float)}
        is_bool = isinstance(value, bool)
        fits = is_bool if kind is bool else isinstance(value, accepts.get(kind, (kind,))) and not is_bool
        self._expect(fits, path, types[kind])
        key = ".".join(path)
        if wanted := _wanted(bounds, value):
            self._refuse(path, f"{key} is {value!r}, and must be {wanted}")
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(path, f"{key} must be a finite number")
        if isinstance(value, str) and not (value.isprintable() or not value):
            self._refuse(path, f"{key} has control characters in it")

    def _expect(self, fits: bool, path: _Path, what: str) -> None:
        if not fits:
            self._refuse(path, f"{'.'.join(path)} must be {what}")

    def _refuse(self, path: _Path, text: str) -> NoReturn:
        line = _line_of(self._text, path)
        raise ConfigError(f"{self._name}:{line}: {text}" if line else f"{self._name}: {text}")


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


def _line_of(text: str, path: _Path) -> int:
    """The line that sets a key, or opens its table or a table in it; 0 if it cannot be found."""
    table: _Path = ()
    best = 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _split(header[1])
            if table[: len(path)] == path and not best:
                best = number
        elif key := _KEY.match(line):
            full = (*table, *_split(key[1]))
            if full == path:
                return number
            if path[: len(full)] == full or (full[: len(path)] == path and not best):
                best = number
    return best


def _split(dotted: str) -> _Path:
    return tuple(
        part[0] or part[1] or part[2] for part in re.findall(r'"([^"]*)"|\'([^\']*)\'|([^.\s]+)', dotted)
    )
