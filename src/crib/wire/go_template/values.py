"""Values of templates as Go prints and compares them, and the functions on them."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias
from urllib.parse import quote_plus

OUTPUT_CHARACTERS = 1 << 20
"""Of a whole output, and of any text on the way to it."""
_NIL = "<nil>"
"""Nothing, within other values."""
MAX_WIDTH = 1000
"""Columns that a verb of printf may ask for."""

Value: TypeAlias = bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"] | None
Function: TypeAlias = Callable[..., Value]


class WrongValue(ValueError):
    """A function cannot do it with this value."""


def written(value: Value, missing: str = "<no value>") -> str:
    """As Go's %v."""
    if value is None:
        return missing
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) or abs(value) >= 1e21 else str(int(value))
    if isinstance(value, Mapping):
        pairs = (f"{key}:{written(value[key], _NIL)}" for key in sorted(value))
        return f"map[{' '.join(pairs)}]"
    return f"[{' '.join(written(one, _NIL) for one in value)}]"


def is_true(value: Value) -> bool:
    """Whether Go takes it for true: nothing that is zero or empty."""
    return bool(value)


def kind_of(value: Value) -> str:
    """For messages."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a map" if isinstance(value, Mapping) else "a list"


def _index(value: Value, *keys: Value) -> Value:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(str(key))
        elif value is None:
            return None
        elif isinstance(value, str) or not isinstance(value, Sequence) or not isinstance(key, int):
            raise WrongValue(f"{kind_of(value)} has no index {written(key)!r}")
        elif not 0 <= key < len(value):
            raise WrongValue(f"index {key} is beyond the {len(value)} of the list")
        else:
            value = value[key]
    return value


def _slice(value: Value, *bounds: Value) -> Value:
    numbers = [bound for bound in bounds if isinstance(bound, int) and not isinstance(bound, bool)]
    if not isinstance(value, Sequence) or len(numbers) < len(bounds) or len(bounds) > 2:
        raise WrongValue(f"{kind_of(value)} has no such part")
    begin, end = [*numbers, *(0, len(value))[len(numbers) :]]
    if not 0 <= begin <= end <= len(value):
        raise WrongValue(f"{begin} to {end} is beyond the {len(value)} that there are")
    return value[begin:end]


def _length(value: Value) -> Value:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))  # Go counts bytes
    if isinstance(value, Sequence | Mapping):
        return len(value)
    raise WrongValue(f"{kind_of(value)} has no length")


def _together(parts: Iterable[str]) -> str:
    """One text, which may be told to be long by a short template."""
    found: list[str] = []
    length = 0
    for part in parts:
        length += len(part)
        if length > OUTPUT_CHARACTERS:
            raise WrongValue(f"it makes more than {OUTPUT_CHARACTERS} characters")
        found.append(part)
    return "".join(found)


def _print(*values: Value) -> str:
    """Spaces are put between two neighbours of which neither is a text."""
    parts: list[str] = []
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            parts.append(" ")
        parts.append(written(value, _NIL))
    return _together(parts)


def _println(*values: Value) -> Value:
    return _together((*_between(map(_in_list, values), " "), "\n"))


def _in_list(value: Value) -> str:
    return written(value, _NIL)


def _between(parts: Iterable[str], between: str) -> Iterator[str]:
    for place, part in enumerate(parts):
        if place:
            yield between
        yield part


_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\d{0,9})(?:\.(?P<places>\d{0,9}))?(?P<verb>[a-zA-Z%])")


def _printf(form: Value, *values: Value) -> Value:
    text = _text(form)
    left = list(values)

    def parts() -> Iterator[str]:
        at = 0
        for found in _VERB.finditer(text):
            yield text[at : found.start()]
            at = found.end()
            if found["verb"] == "%":
                yield "%"
            else:
                yield _verb(found, left.pop(0)) if left else f"%!{found['verb']}(MISSING)"
        yield text[at:]
        if left:
            yield from ("%!(EXTRA ", *_between(map(_in_list, left), ", "), ")")

    return _together(parts())


def _verb(found: re.Match[str], value: Value) -> str:
    verb, flags, width = found["verb"], found["flags"], int(found["width"] or 0)
    places = int(found["places"] or 0) if found["places"] is not None else None
    if max(width, places or 0) > MAX_WIDTH:
        raise WrongValue(f"{found[0]} asks for more than {MAX_WIDTH} characters")
    sign = "+" if "+" in flags else ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if verb in {"s", "v"}:
        text = written(value, _NIL)[: places if verb == "s" else None]
    elif verb == "q":
        text = json.dumps(written(value, ""), ensure_ascii=False)
    elif verb == "t" and isinstance(value, bool):
        text = written(value)
    elif verb in "dxXob" and isinstance(value, int) and is_number:
        text = format(value, sign + verb)
    elif verb in "feEgG" and isinstance(value, int | float) and is_number:
        exact = "" if places is None and verb in "gG" else f".{6 if places is None else places}"
        text = format(float(value), sign + exact + verb)
    else:
        raise WrongValue(f"{found[0]} does not write {kind_of(value)}")
    if "-" in flags:
        return text.ljust(width)
    return text.zfill(width) if "0" in flags and is_number else text.rjust(width)


def _equal(first: Value, *others: Value) -> Value:
    if not others:
        raise WrongValue("eq needs two values")
    return any(type(first) is type(one) and first == one for one in others)


def _compared(compare: Callable[[int], bool]) -> Function:
    def function(first: Value, second: Value) -> Value:
        numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (first, second)]
        if not all(numbers) and not (isinstance(first, str) and isinstance(second, str)):
            raise WrongValue(f"{kind_of(first)} and {kind_of(second)} cannot be compared")
        return compare((first > second) - (first < second))  # type: ignore[operator]  # of one kind

    return function


def _base64decode(value: Value) -> Value:
    try:
        return base64.b64decode(_text(value), validate=True).decode(errors="replace")
    except ValueError as error:
        raise WrongValue(f"it is not base64: {error}") from None


def _exists(value: Value, *keys: Value) -> Value:
    try:
        return _index(value, *keys) is not None
    except WrongValue:
        return False


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise WrongValue(f"it must be a text, and is {kind_of(value)}")
    return value


def _join(values: Value, between: Value) -> Value:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise WrongValue(f"join needs a list, and this is {kind_of(values)}")
    return _together(_between(map(_in_list, values), _text(between)))


def _not(value: Value) -> Value:
    return not is_true(value)


def _split(value: Value, between: Value) -> Value:
    return _text(value).split(_text(between)) if between else list(_text(value))


def _json(value: Value) -> Value:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


FUNCTIONS: Mapping[str, Function | None] = {
    "and": None,
    "or": None,
    "not": _not,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "html": lambda *values: html.escape(_print(*values)),
    "js": lambda *values: json.dumps(_print(*values))[1:-1].replace("<", "\\u003C").replace("'", "\\'"),
    "urlquery": lambda *values: quote_plus(_print(*values)),
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": _compared(lambda order: order < 0),
    "le": _compared(lambda order: order <= 0),
    "gt": _compared(lambda order: order > 0),
    "ge": _compared(lambda order: order >= 0),
    "base64decode": _base64decode,
    "exists": _exists,
    "json": _json,
    "join": _join,
    "split": _split,
    "lower": lambda value: _text(value).lower(),
    "upper": lambda value: _text(value).upper(),
}
"""By name; `and` and `or` stop at the first value that decides, so whoever calls does that himself."""
