"""Where each key of a TOML document stands: for messages, and for who asks where a value comes from.

`tomllib` tells no positions. This reads text that `tomllib` has accepted, so it checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Keys from the top; a number is an element of an array."""
Say = Callable[[Path, str], None]
"""Takes a fault: the key, and what is wrong."""


def dotted(path: Path) -> str:
    """As people write it; which element of an array is told by the place."""
    return ".".join(part for part in path if isinstance(part, str))


class Spot(NamedTuple):
    """Both from 1."""

    line: int
    column: int


_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}|' + r"'''(?:[^']|'{1,2}(?!'))*'{3,5}|" + _PART.pattern, re.DOTALL
)
_OTHER = re.compile(r"[^,\]}\n#]*")


def places(text: str) -> Mapping[Path, Spot]:
    """Of each key where it is set, and of each table where it begins."""
    reader = _Reader(text.replace("\r\n", "\n"))
    reader.document()
    return reader.found


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._elements: dict[Path, int] = {}
        """How many tables an array of tables has so far."""
        self._line, self._line_at = 1, 0
        self.found: dict[Path, Spot] = {}

    def document(self) -> None:
        above: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text[self._at] == "[":
                above = self._header()
            else:
                self._pair(above)

    def _header(self) -> Path:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        path: Path = ()
        parts = self._key()
        for number, part in enumerate(parts, 1):
            path = (*path, part)
            if number < len(parts) and path in self._elements:
                path = (*path, self._elements[path] - 1)
        self._note(path, start)
        if is_array:
            self._elements[path] = self._elements.get(path, 0) + 1
            path = (*path, self._elements[path] - 1)
            self._note(path, start)
        self._at += 2 if is_array else 1
        return path

    def _pair(self, above: Path) -> None:
        start = self._at
        path = (*above, *self._key())
        self._note(path, start)
        self._at += 1  # =
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        match self._text[self._at]:
            case '"' | "'":
                self._skip(_STRING)
            case "[":
                self._at += 1
                number = 0
                while self._text[self._skip(_BLANK)] != "]":
                    self._note((*path, number), self._at)
                    self._value((*path, number))
                    number += 1
                    self._comma()
                self._at += 1
            case "{":
                self._at += 1
                while self._text[self._skip(_BLANK)] != "}":
                    self._pair(path)
                    self._comma()
                self._at += 1
            case _:
                self._skip(_OTHER)

    def _comma(self) -> None:
        if self._text[self._skip(_BLANK)] == ",":
            self._at += 1

    def _key(self) -> tuple[str, ...]:
        """The parts of a dotted key, up to what follows it."""
        parts = []
        while True:
            start = self._skip(_SPACE)
            part = self._text[start : self._skip(_PART)]
            # The names that quotes may hold, with their escapes, are read by whoever knows them.
            parts.append(next(iter(tomllib.loads(f"{part}=0"))) if part[0] in "\"'" else part)
            if self._text[self._skip(_SPACE)] != ".":
                return tuple(parts)
            self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return self._at

    def _note(self, path: Path, at: int) -> None:
        """Tables above that have no header of their own begin here as well."""
        self._line += self._text.count("\n", self._line_at, at)
        self._line_at = at
        spot = Spot(self._line, at - self._text.rfind("\n", 0, at))
        for length in range(1, len(path) + 1):
            self.found.setdefault(path[:length], spot)
