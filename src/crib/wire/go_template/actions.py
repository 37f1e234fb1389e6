"""A template as text and actions, and an action as words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

TEMPLATE_BYTES = 1 << 16
_SPACE = " \t\r\n"
_SHOWN = 60
_NAME = r"[^\W\d]\w*"
_QUOTED = r'"(?:[^"\\\n]|\\.)*"|`[^`]*`'
_INSIDE = re.compile(rf"(?:{_QUOTED}|'(?:[^'\\\n]|\\.)*'|(?!}}}}).)*?}}}}", re.DOTALL)
"""An action to the end of its braces, which quotes may hold too."""
_WORD = re.compile(
    rf"""(?P<space>[{_SPACE}]+)
    |(?P<text>{_QUOTED})
    |(?P<char>'(?:[^'\\\n]|\\.[0-9a-fA-F]*)')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))
    |(?P<variable>\$(?:{_NAME})?)
    |(?P<field>\.{_NAME})
    |(?P<dot>\.)
    |(?P<name>{_NAME})
    |(?P<sign>:=|=|\||\(|\)|,)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))"
)
_ESCAPED = dict(zip("abfnrtv\\'\"", "\a\b\f\n\r\t\v\\'\"", strict=True))


class MalformedTemplate(ValueError):
    """The template is not of the part that is understood, or does not fit its values; names the line."""


class Kind(Enum):
    """What a word is."""

    SPACE = "space"
    TEXT = "text"
    CHAR = "char"
    NUMBER = "number"
    VARIABLE = "variable"
    FIELD = "field"
    DOT = "dot"
    NAME = "name"
    SIGN = "sign"


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it stands, or what is between the braces of an action."""

    line: int
    text: str
    is_action: bool = False

    def not_understood(self, why: str = "") -> MalformedTemplate:
        """The error, with as much of the action as fits."""
        reason = f": {_start(why)}" if why else ""
        return MalformedTemplate(f"line {self.line}: {{{{{_start(self.text)}}}}} is not understood{reason}")


def _start(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@dataclass(frozen=True, slots=True)
class Word:
    """`is_close`: no space is before it."""

    kind: Kind
    text: str
    is_close: bool


def pieces(text: str) -> Iterator[Piece]:
    """The template's parts in their order; comments are left out."""
    if len(text.encode("utf-8", "surrogatepass")) > TEMPLATE_BYTES:
        raise MalformedTemplate(f"the template has more than {TEMPLATE_BYTES} bytes")
    position, trim = 0, False
    while True:
        start = text.find("{{", position)
        line = text.count("\n", 0, position) + 1
        chunk = text[position:] if start < 0 else text[position:start]
        if trim:
            chunk = chunk.lstrip(_SPACE)
        if start < 0:
            yield Piece(line, chunk)
            return
        line = text.count("\n", 0, start) + 1
        inside = start + 2
        if text[inside : inside + 1] == "-" and text[inside + 1 : inside + 2] in set(_SPACE):
            chunk = chunk.rstrip(_SPACE)
            inside += 2
        yield Piece(line, chunk)
        is_comment = text.startswith("/*", inside)
        body, position = _comment(text, inside, line) if is_comment else _action(text, inside, line)
        trim = len(body) > 1 and body[-1] == "-" and body[-2] in _SPACE
        if not is_comment:
            yield Piece(line, (body[:-1] if trim else body).strip(_SPACE), is_action=True)


def _action(text: str, inside: int, line: int) -> tuple[str, int]:
    found = _INSIDE.match(text, inside)
    if found is None:
        raise MalformedTemplate(f"line {line}: an action without its }}}}")
    return found[0][:-2], found.end()


def _comment(text: str, inside: int, line: int) -> tuple[str, int]:
    """What is left of the braces behind the comment: nothing, or a trim marker."""
    end = text.find("*/", inside + 2)
    if end < 0:
        raise MalformedTemplate(f"line {line}: a comment without its */")
    closing = text.find("}}", end + 2)
    rest = text[end + 2 : closing] if closing >= 0 else "?"
    if rest and not (len(rest) == 2 and rest[0] in _SPACE and rest[1] == "-"):
        raise MalformedTemplate(f"line {line}: a comment that does not end its action")
    return rest, closing + 2


def words(piece: Piece) -> list[Word]:
    """The action's words."""
    found: list[Word] = []
    at, is_close = 0, False
    while at < len(piece.text):
        match = _WORD.match(piece.text, at)
        if match is None:
            raise piece.not_understood(f"unexpected {piece.text[at]!r}")
        kind = Kind(match.lastgroup)
        if kind is not Kind.SPACE:
            found.append(Word(kind, match[0], is_close))
        is_close = kind is not Kind.SPACE
        at = match.end()
    return found


def unquoted(text: str) -> str:
    """The value of a text in Go's quotes. ValueError for an escape that Go does not know."""
    body = text[1:-1]
    if text[0] == "`":
        return body
    if "\\" in _ESCAPE.sub("", body):
        raise ValueError("an escape that is not known")
    return _ESCAPE.sub(_one, body)


def _one(found: re.Match[str]) -> str:
    if found[1]:
        return _ESCAPED[found[1]]
    number = int(found[5], 8) if found[5] else int(found[2] or found[3] or found[4], 16)
    if number > 0x10FFFF:
        raise ValueError("an escape that is no character")
    return chr(number)
