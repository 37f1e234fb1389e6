"""Values out of a plugin's message, each checked; an error names the field as the protocol does."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

MAX_ENTRIES = 1024
"""Of one list or map in an answer."""
MAX_TEXT = 128 << 10
"""Bytes of one text: more the kernel takes for no argument or variable (execve(2), MAX_ARG_STRLEN)."""
MAX_PATH = 4095
"""Bytes (PATH_MAX, without the NUL)."""
_MARK = "-"

_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


class Misfit(ValueError):
    """A value that cannot be; `field` is its path in the message."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


@contextmanager
def at(place: str) -> Iterator[None]:
    """Misfits inside are below this field."""
    try:
        yield
    except Misfit as error:
        joint = "" if not error.field or error.field.startswith("[") else "."
        raise Misfit(error.problem, f"{place}{joint}{error.field}") from None


def each(
    place: str, items: Sequence[_Item], made: Callable[[_Item], _Value], most: int = MAX_ENTRIES
) -> tuple[_Value, ...]:
    """`made` of each element."""
    with at(place):
        if len(items) > most:
            raise Misfit(f"{len(items)} entries are more than {most}")
        values = []
        for position, item in enumerate(items):
            with at(f"[{position}]"):
                values.append(made(item))
        return tuple(values)


def text(value: str, place: str = "", most: int = MAX_TEXT) -> str:
    """Without NUL, and not too long."""
    with at(place):
        if "\0" in value:
            raise Misfit("it has a NUL in it")
        if len(value.encode("utf-8", "surrogatepass")) > most:
            raise Misfit(f"it is longer than {most} bytes")
    return value


def name(value: str, place: str = "", most: int = 256) -> str:
    """A text that is not empty."""
    if not value:
        raise Misfit("it is empty", place)
    return text(value, place, most)


def matching(value: str, pattern: re.Pattern[str], what: str, place: str = "") -> str:
    """A text of this form."""
    if pattern.fullmatch(value) is None:
        raise Misfit(f"{value[:100]!r} is not {what}", place)
    return value


def path(value: str, place: str = "") -> str:
    """An absolute path, made short; none leads upwards."""
    with at(place):
        text(value, most=MAX_PATH)
        if not value.startswith("/"):
            raise Misfit(f"{value[:100]!r} is not an absolute path")
        if ".." in value.split("/"):
            raise Misfit(f"{value[:100]!r} leads upwards")
    return "/" + posixpath.normpath(value).lstrip("/")


def number(value: int, least: int, most: int, place: str = "") -> int:
    """One in these bounds."""
    if not least <= value <= most:
        raise Misfit(f"{value} is not {least} to {most}", place)
    return value


def enum_name(enum: Any, value: int, place: str = "") -> str:
    """What the protocol calls it."""
    try:
        found = enum.Name(value)
    except ValueError:
        raise Misfit(f"{value} is none of the values that are known", place) from None
    return str(found)


def value_of(message: Any, field: str) -> Any:
    """What is in an optional value's message (OptionalInt and its like); None where it is not there."""
    return getattr(message, field).value if message.HasField(field) else None


def marked(
    place: str, items: Iterable[_Item], key_of: Callable[[_Item], str]
) -> tuple[tuple[str, ...], list[_Item]]:
    """What is only to be removed, without the mark and each once; and all others."""
    gone: list[str] = []
    kept: list[_Item] = []
    for item in items:
        key = key_of(item)
        if not key.removeprefix(_MARK):
            raise Misfit("an entry has no name", place)
        if key.startswith(_MARK):
            gone.append(text(key.removeprefix(_MARK), place))
        else:
            kept.append(item)
    return tuple(dict.fromkeys(gone)), kept


def once(place: str, keys: Sequence[str]) -> None:
    """No key is there twice."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise Misfit(f"{key[:100]!r} is set twice", place)
        seen.add(key)


def pairs(
    place: str, entries: Mapping[str, str], key_form: Callable[[str], str]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """What a map of texts removes, and what it sets, by the keys' order."""
    if len(entries) > MAX_ENTRIES:
        raise Misfit(f"{len(entries)} entries are more than {MAX_ENTRIES}", place)
    gone, kept = marked(place, sorted(entries), str)
    with at(place):
        for key in (*gone, *kept):
            key_form(key)
        return gone, tuple((key, text(entries[key])) for key in kept)
