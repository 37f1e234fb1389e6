"""JSONPath as kubectl has it: text with expressions in braces, over what `-o json` shows.

`{.a.b}`, `{['a.b']}`, `{..a}`, `{.a[*]}`, `{.a[0]}`, `{.a[-1]}`, `{.a[1:3]}`, `{.a[?(@.b=="c")].d}`,
`{range .a[*]}{.b}{"\\n"}{end}`. What does not exist is nothing, as for `kubectl get`. A list is also its own
`.items`, so that what is written for kubectl's lists works for ours.

https://kubernetes.io/docs/reference/kubectl/jsonpath/
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Step: TypeAlias = Callable[[Any], Iterator[Any]]
"""From a value to those that a part of the path leads to."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>\.\.?(?:(?:\\.|[^\s.\[\]{}()'"=<>!&|,\\])+|\*)|\.\.(?=\[))
    |(?P<key>\[\s*(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*\])
    |(?P<slice>\[\s*(?:\*|-?\d*(?::-?\d*){0,2})\s*\])
    |(?P<filter>\[\?\())""",
    re.VERBOSE,
)
_COMPARED = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*")
_VALUE = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null)""")
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": lambda one, other: bool(one == other),
    "!=": lambda one, other: bool(one != other),
    "<": lambda one, other: bool(one < other),
    "<=": lambda one, other: bool(one <= other),
    ">": lambda one, other: bool(one > other),
    ">=": lambda one, other: bool(one >= other),
}


class JsonPathError(ValueError):
    """The text is no JSONPath; the message says where."""


class JsonPath:
    """A template, read once and written for any number of values."""

    def __init__(self, text: str) -> None:
        """Raises JsonPathError. An expression alone may come without its braces."""
        if "{" not in text and text.startswith((".", "[", "$")):
            text = f"{{{text}}}"
        self._parts, rest = _template(list(_pieces(text)), 0)
        if rest:
            raise JsonPathError("{end} without {range}")

    def values(self, value: Any) -> list[Any]:
        """What its expressions lead to."""
        return [found for part in self._parts for found in part(value)]

    def written(self, value: Any) -> str:
        """The text, with the values of each expression in the place of it, spaces between."""
        return "".join(_text(part, value) for part in self._parts)


class _Literal:
    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, value: Any) -> Iterator[Any]:
        yield from ()


class _Range:
    def __init__(self, over: _Path, body: Sequence[_Part]) -> None:
        self.over = over
        self.body = body

    def __call__(self, value: Any) -> Iterator[Any]:
        for one in self.over(value):
            for part in self.body:
                yield from part(one)


class _Path:
    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def __call__(self, value: Any) -> Iterator[Any]:
        found = [value]
        for step in self._steps:
            found = [one for each in found for one in step(each)]
        yield from found


_Part: TypeAlias = _Literal | _Range | _Path


def _text(part: _Part, value: Any) -> str:
    if isinstance(part, _Literal):
        return part.text
    if isinstance(part, _Range):
        return "".join(_text(inner, one) for one in part.over(value) for inner in part.body)
    return " ".join(map(plain, part(value)))


def plain(value: Any) -> str:
    """A string is itself, all else JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Text outside braces, and (True) what is inside. Quotes inside may hold braces."""
    at = 0
    while at < len(text):
        begin = text.find("{", at)
        if begin < 0:
            yield False, text[at:]
            return
        if begin > at:
            yield False, text[at:begin]
        found = re.compile(r"""\{((?:[^{}'"]|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")*)\}""").match(text, begin)
        if not found:
            raise JsonPathError(f"{text[begin:]!r} has no closing brace")
        yield True, found[1].strip()
        at = found.end()


def _template(pieces: Sequence[tuple[bool, str]], at: int) -> tuple[list[_Part], int]:
    """The parts up to the end, or up to {end}: then also where the text goes on, else 0."""
    parts: list[_Part] = []
    while at < len(pieces):
        is_expression, text = pieces[at]
        at += 1
        if not is_expression:
            parts.append(_Literal(text))
        elif text == "end":
            return parts, at
        elif text.startswith(("'", '"')):
            parts.append(_Literal(_unquoted(text)))
        elif text == "range" or text.startswith(("range ", "range.")):
            body, at = _template(pieces, at)
            if not at:
                raise JsonPathError("{range} without {end}")
            parts.append(_Range(_path(text.removeprefix("range").strip()), body))
        else:
            parts.append(_path(text))
    return parts, 0


def _unquoted(text: str) -> str:
    body = text[1:-1]
    if len(text) < 2 or text[-1] != text[0]:
        raise JsonPathError(f"{text} is not closed")
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), body)


def _path(text: str) -> _Path:
    steps, rest = _steps(text)
    if rest.strip():
        raise JsonPathError(f"{rest.strip()!r} in {text!r} is not understood")
    return _Path(steps)


def _steps(text: str) -> tuple[list[Step], str]:
    """The steps at the beginning of the text, and what is left of it."""
    rest = text.lstrip()
    if rest[:1] in ("$", "@"):
        rest = rest[1:]
    elif rest and rest[0] not in ".[":
        rest = f".{rest}"
    if rest.strip() == ".":
        return [], ""
    steps: list[Step] = []
    while found := _TOKEN.match(rest):
        rest = rest[found.end() :]
        if name := found["name"]:
            if name.startswith(".."):
                steps.append(_deep)
            if name.lstrip("."):
                steps.append(_member(re.sub(r"\\(.)", r"\1", name.lstrip("."))))
        elif key := found["key"]:
            steps.append(_member(_unquoted(key[1:-1].strip())))
        elif part := found["slice"]:
            steps.append(_slice(part[1:-1].strip()))
        else:
            step, rest = _filter(rest)
            steps.append(step)
    return steps, rest


def _member(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if name == "*":
            yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        elif isinstance(value, dict) and name in value:
            yield value[name]
        elif isinstance(value, list) and name == "items":
            yield value

    return step


def _deep(value: Any) -> Iterator[Any]:
    """The value and all that is in it."""
    yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _deep(one)


def _slice(text: str) -> Step:
    if text in ("", "*"):
        return _member("*")
    numbers = [int(part) if part else None for part in text.split(":")]
    if len(numbers) == 3 and numbers[2] == 0:
        raise JsonPathError(f"[{text}] has a step of 0")

    def step(value: Any) -> Iterator[Any]:
        if not isinstance(value, list):
            return
        if len(numbers) > 1:
            yield from value[slice(*numbers)]
        elif numbers[0] is not None and -len(value) <= numbers[0] < len(value):
            yield value[numbers[0]]

    return step


def _filter(text: str) -> tuple[Step, str]:
    """`@.a == "b")]`, or `@.a)]` for those that have it."""
    steps, rest = _steps(text)
    path = _Path(steps)
    test: Callable[[Any], bool] = lambda found: True  # noqa: E731  replaced below
    if compared := _COMPARED.match(rest):
        rest = rest[compared.end() :]
        literal = _VALUE.match(rest)
        if not literal:
            raise JsonPathError(f"{rest!r} does not begin with a string or a number")
        wanted = _unquoted(literal[1]) if literal[1][0] in "'\"" else json.loads(literal[1])
        test = _compare(_COMPARISONS[compared[1]], wanted)
        rest = rest[literal.end() :]
    end = re.match(r"\s*\)\s*\]", rest)
    if not end:
        raise JsonPathError(f"the filter [?({text} has no )] after it")

    def step(value: Any) -> Iterator[Any]:
        for one in value if isinstance(value, list) else ():
            if any(test(found) for found in path(one)):
                yield one

    return step, rest[end.end() :]


def _compare(test: Callable[[Any, Any], bool], wanted: Any) -> Callable[[Any], bool]:
    """64-bit numbers are strings in the CRI's JSON, so a number is also compared with such a string."""

    def compare(found: Any) -> bool:
        if isinstance(found, str) and isinstance(wanted, int | float) and not isinstance(wanted, bool):
            try:
                found = float(found)
            except ValueError:
                return False
        try:
            return test(found, wanted)
        except TypeError:
            return False

    return compare
