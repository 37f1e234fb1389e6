"""What a query of Prometheus names: metrics, and the labels of each, without running it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<range>\[[^\]]*\])
    |(?P<name>[A-Za-z_:$][A-Za-z0-9_:]*)|(?P<number>\d+(?:\.\d+)?(?:[a-z]+)?)|(?P<sign>[=!]=|[=!]~|[<>]=?|.)""",
    re.VERBOSE,
)
_GROUPING = frozenset(("by", "without", "on", "ignoring", "group_left", "group_right"))
_AFTER_FUNCTIONS = _GROUPING | {"("}
_WORDS = frozenset(("and", "or", "unless", "bool", "offset"))


@dataclass(frozen=True)
class Query:
    """Names in it."""

    selected: dict[str, set[str]]
    """By metric, the labels that its selectors name."""
    grouped: set[str]
    """Labels that are named in `by (…)` and its like."""


def parsed(text: str) -> Query:
    """ValueError for a text whose brackets do not match."""
    tokens = list(_tokens(text))
    selected: dict[str, set[str]] = {}
    grouped: set[str] = set()
    depth = 0
    place = 0
    while place < len(tokens):
        kind, word = tokens[place]
        following = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        place += 1
        if word in "()":
            depth += 1 if word == "(" else -1
            if depth < 0:
                raise ValueError(f"a bracket too many: {text}")
        elif kind == "name" and word in _GROUPING:
            end = _end(tokens, place, ")", text)
            grouped |= {name for one, name in tokens[place:end] if one == "name"}
            place = end + 1
        elif kind == "name" and following == "{":
            end = _end(tokens, place, "}", text)
            inside = tokens[place:end]
            labels = {
                name for (one, name), (_, sign) in pairwise(inside) if one == "name" and sign[0] in "=!"
            }
            selected.setdefault(word, set()).update(labels)
            place = end + 1
        elif kind == "name" and following not in _AFTER_FUNCTIONS and word not in _WORDS:
            selected.setdefault(word, set())
    if depth:
        raise ValueError(f"a bracket is missing: {text}")
    return Query(selected, grouped)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "space":
            yield str(found.lastgroup), found[0]


def _end(tokens: list[tuple[str, str]], place: int, sign: str, text: str) -> int:
    for end in range(place, len(tokens)):
        if tokens[end] == ("sign", sign):
            return end
    raise ValueError(f"{sign} is missing: {text}")
