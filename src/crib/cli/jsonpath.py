"""JSONPath as kubectl has it: text with expressions in braces, over what `-o json` shows.

An expression is one of RFC 9535, which python-jsonpath reads. It may begin without `$`. kubectl's own are
`{range .a[*]}{.b}{"\\n"}{end}`, and names with an escaped dot (`.labels.app\\.io/name`). What does not exist
is nothing, as for `kubectl get`. A list is also its own `.items`, so that what is written for kubectl's
lists works for ours.

https://kubernetes.io/docs/reference/kubectl/jsonpath/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from jsonpath import JSONPathEnvironment, exceptions

_LANGUAGE = JSONPathEnvironment()
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ITEMS = '$["items"]'
_NAME = re.compile(rf"""(?P<quoted>{_QUOTED})|(?P<deep>\.?)\.(?P<name>(?:[^\s.\[\]()'"=<>!&|,\\*]|\\.)+)""")
"""A name after a dot, outside quotes: kubectl allows characters in it that RFC 9535 wants in brackets."""


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
    def __init__(self, text: str) -> None:
        path = _standard(text)
        try:
            self._query = _LANGUAGE.compile(path)
            self._of_list = _LANGUAGE.compile(path.replace(_ITEMS, "$", 1))
        except exceptions.JSONPathError as error:
            raise JsonPathError(f"{text.strip()!r} is not understood: {error}".split("\n", 1)[0]) from None

    def __call__(self, value: Any) -> Iterator[Any]:
        yield from (self._of_list if isinstance(value, list) else self._query).findall(value)


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
            parts.append(_Range(_Path(text.removeprefix("range")), body))
        else:
            parts.append(_Path(text))
    return parts, 0


def _unquoted(text: str) -> str:
    body = text[1:-1]
    if len(text) < 2 or text[-1] != text[0]:
        raise JsonPathError(f"{text} is not closed")
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), body)


def _standard(text: str) -> str:
    """The expression as RFC 9535 has it."""
    text = text.strip()
    if text[:1] in ("$", "@"):
        text = text[1:]
    elif text[:1] not in (".", "["):
        text = f".{text}"
    if text == ".":
        return "$"

    def bracketed(found: re.Match[str]) -> str:
        if found["quoted"]:
            return found[0]
        name = json.dumps(re.sub(r"\\(.)", r"\1", found["name"]))
        return f"{'..' if found['deep'] else ''}[{name}]"

    return f"${_NAME.sub(bracketed, text)}"
