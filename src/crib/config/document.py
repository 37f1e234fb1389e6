"""One TOML file, checked by itself, so that what is wrong in it is told with its line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from crib.config.values import Rules

Table = dict[str, Any]

_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_HEADER = re.compile(r"\s*\[\[?\s*([^\]]*?)\s*\]\]?\s*(?:#.*)?$")


class ConfigError(Exception):
    """A configuration that cannot be used; the message says where and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Key:
    """Where in the tables we are, and which rule counts there."""

    path: tuple[str, ...] = ()
    rule: tuple[str, ...] = ()
    """The path with `*` for names that the administrator chooses."""

    def __str__(self) -> str:
        return ".".join(self.path)

    def below(self, name: str, *, chosen: bool = False) -> _Key:
        return _Key((*self.path, name), (*self.rule, "*" if chosen else name))


class Document:
    """`name` is for messages, `kind` the dataclass whose fields are the keys."""

    def __init__(self, name: str, text: str, kind: type, rules: Rules) -> None:
        self._name = name
        self._text = text
        self._kind = kind
        self._rules = rules

    def table(self) -> Table:
        """What it says, with every value of the right type and as its rule wants it. Raises ConfigError."""
        try:
            table = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self._name}: {error}") from error
        self._check_table(self._kind, table, _Key())
        return table

    def _check_table(self, kind: type, table: Table, key: _Key) -> None:
        hints = get_type_hints(kind)
        for name, value in table.items():
            inner = key.below(name)
            if name not in hints:
                near = difflib.get_close_matches(name, hints, n=1)
                hint = f", did you mean {key.below(near[0])}?" if near else ""
                self._refuse(inner, f"unknown key {inner}{hint}")
            self._check(hints[name], value, inner)

    def _check(self, kind: Any, value: Any, key: _Key) -> None:
        """The value's type, and that of everything inside it."""
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            self._expect(isinstance(value, dict), key, "a table")
            self._check_table(kind, value, key)
        elif get_origin(kind) is tuple:
            self._expect(isinstance(value, list), key, "an array")
            for element in value:
                self._check(get_args(kind)[0], element, key)
        elif isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
            self._expect(isinstance(value, dict), key, "a table")
            for name, element in value.items():
                inner = key.below(name, chosen=True)
                if problem := self._problem(key, name):
                    self._refuse(inner, f"{inner}: the name must be {problem}")
                self._check(get_args(kind)[1], element, inner)
        else:
            self._check_scalar(kind, value, key)

    def _check_scalar(self, kind: Any, value: Any, key: _Key) -> None:
        wanted = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
        accepts: dict[Any, tuple[type, ...]] = {float: (int, float)}
        is_bool = isinstance(value, bool)
        fits = is_bool if kind is bool else isinstance(value, accepts.get(kind, (kind,))) and not is_bool
        self._expect(fits, key, wanted[kind])
        if problem := self._problem(key, value):
            self._refuse(key, f"{key} is {value!r}, and must be {problem}")
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(key, f"{key} must be a finite number")
        if isinstance(value, str) and not (value.isprintable() or not value):
            self._refuse(key, f"{key} has control characters in it")

    def _problem(self, key: _Key, value: Any) -> str:
        rule = self._rules.get(".".join(key.rule))
        return rule(value) if rule is not None else ""

    def _expect(self, fits: bool, key: _Key, what: str) -> None:
        if not fits:
            self._refuse(key, f"{key} must be {what}")

    def _refuse(self, key: _Key, problem: str) -> NoReturn:
        line = _line_of(self._text, key.path)
        raise ConfigError(f"{self._name}:{line}: {problem}" if line else f"{self._name}: {problem}")


def lay_over(table: Table, other: Table) -> None:
    """Put what the other says in the place of what the table does: tables are merged, nothing else is."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            lay_over(table[key], value)
        else:
            table[key] = value


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """The line that sets a key, or that opens its table or a table in it; 0 when that cannot be told."""
    table: tuple[str, ...] = ()
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


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(
        part[0] or part[1] or part[2] for part in re.findall(r'"([^"]*)"|\'([^\']*)\'|([^.\s]+)', dotted)
    )
