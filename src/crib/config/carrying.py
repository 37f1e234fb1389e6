"""Taking over another runtime's configuration: rules say which of its keys become which of ours."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from crib.config.document import Table, check_value, lay_over, leaves
from crib.config.faults import ConfigError, Fault
from crib.config.places import Path, places
from crib.config.views import name_of
from crib.model.keys import keys_of, unwrapped
from crib.model.settings import Settings

ANY = "*"
"""In the path of a rule: any name, which the rule is given."""
_DURATION = re.compile(r"([0-9.]+)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of one key of theirs."""

    place: str
    """FILE:LINE:COLUMN."""
    path: Path
    to: str
    """Our key; empty: it was not carried over."""
    why: str = ""

    @property
    def key(self) -> str:
        return name_of(self.path)


class Put(Protocol):
    """Sets one of our keys."""

    def __call__(self, path: Path, value: Any, /, *, join: bool = False) -> None:
        """`join`: an array goes behind what another key of theirs put there."""
        ...


Rule = Callable[[Any, tuple[str, ...], Put], str]
"""Takes their value and the names that `ANY` stands for; says why it is not carried over, or nothing."""
Rules = Mapping[tuple[str, ...], Rule]


@dataclass
class KeyCarrier:
    """Collects what is carried over."""

    rules: Rules
    table: Table = field(default_factory=dict)
    lines: list[Carried] = field(default_factory=list)

    def take(self, name: str, text: str, renamed: Callable[[Path], Path] = lambda path: path) -> None:
        """All of one file; `renamed` gives the path that the rules know. Later files replace earlier ones."""
        document = parsed(name, text)
        spots = places(text)
        for path in leaves(document):
            value: Any = document
            for part in path:
                value = value[part]
            spot = spots.get(path)
            place = f"{name}:{spot.line}:{spot.column}" if spot else name
            self._take_key(renamed(path), path, value, place)

    def _take_key(self, known: Path, path: Path, value: Any, place: str) -> None:
        rule, names = self._rule(tuple(map(str, known)))
        put: list[str] = []
        problems: list[str] = []

        def set_key(ours: Path, wanted: Any, *, join: bool = False) -> None:
            if problem := _problem(ours, wanted):
                problems.append(problem)
            else:
                inner: Table = {}
                above = inner
                there: Any = self.table
                for part in ours[:-1]:
                    above = above.setdefault(str(part), {})
                    there = there.get(part, {})
                before = there.get(ours[-1], []) if join else []
                above[str(ours[-1])] = [*before, *wanted] if join else wanted
                lay_over(self.table, inner)
                put.append(name_of(ours))

        try:
            why = rule(value, names, set_key) if rule else "crib has no such setting"
        except (ValueError, AttributeError, TypeError) as error:  # it is not what their documentation says
            why = str(error)
        reasons = "; ".join(filter(None, (why, *problems)))
        self.lines.append(Carried(place, path, ", ".join(put), reasons))

    def _rule(self, path: tuple[str, ...]) -> tuple[Rule | None, tuple[str, ...]]:
        """The one with the fewest wildcards; a rule for a table holds for all keys below it."""
        fits = [
            pattern
            for pattern in self.rules
            if len(pattern) <= len(path)
            and all(one in (ANY, two) for one, two in zip(pattern, path, strict=False))
        ]
        if not fits:
            return None, ()
        best = max(fits, key=lambda pattern: (len(pattern), -pattern.count(ANY)))
        return self.rules[best], tuple(two for one, two in zip(best, path, strict=False) if one == ANY)


def parsed(name: str, text: str) -> Table:
    """TOML of theirs; ConfigError."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError((Fault(name, str(error)),)) from error


def to(*path: str) -> Rule:
    """It is this key of ours, with the same value; an empty text says nothing."""

    def rule(value: Any, names: tuple[str, ...], put: Put) -> str:
        if value == "":
            return "it is empty"
        put(_filled(path, names), value)
        return ""

    return rule


def through(convert: Callable[[Any], Any], *path: str) -> Rule:
    """The same with another form of the value; ValueError of `convert` says why it has none."""

    def rule(value: Any, names: tuple[str, ...], put: Put) -> str:
        put(_filled(path, names), convert(value))
        return ""

    return rule


def no(why: str) -> Rule:
    """It cannot be carried over, or need not."""
    return lambda value, names, put: why


def seconds(value: Any) -> float:
    """Of a duration as Go writes it, or a number of seconds. ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    found = _DURATION.findall(value)
    if "".join(map("".join, found)) != value or not found:
        raise ValueError(f"{value!r} is no duration")
    return sum(float(number) * _SECONDS[unit] for number, unit in found)


def level(value: str) -> str:
    """Of a log, in our words. ValueError."""
    known = {"trace": "debug", "warn": "warning", "fatal": "critical", "panic": "critical"}
    return known.get(value, value)


def pairs(value: list[str]) -> dict[str, str]:
    """Of a list of NAME=VALUE. ValueError."""
    if odd := [one for one in value if "=" not in one]:
        raise ValueError(f"{odd[0]!r} has no =")
    return {name: rest for name, _, rest in (one.partition("=") for one in value)}


def written(table: Table) -> str:
    """The table as a file of ours."""
    return "\n".join(_written(table, ())).lstrip("\n") + "\n"


def _written(table: Table, path: Path) -> Iterator[str]:
    if path and (not table or any(not isinstance(value, dict) for value in table.values())):
        yield ""
        yield f"[{name_of(path)}]"
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{name_of((key,))} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _written(value, (*path, key))


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name_of((key,))} = {_value(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _filled(path: tuple[str, ...], names: tuple[str, ...]) -> Path:
    """With the names in place of `ANY`."""
    left = iter(names)
    return tuple(next(left) if part == ANY else part for part in path)


def _problem(path: Path, value: Any) -> str:
    """Why this is no value of our key; empty when it is one."""
    hint: Any = Settings
    for part in path:
        kind, _ = unwrapped(hint)
        is_table = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        hint = keys_of(kind)[str(part)] if is_table else kind.__args__[1]
    problems: list[str] = []
    check_value(hint, value, path, lambda at, text: problems.append(text))
    return "; ".join(problems)
