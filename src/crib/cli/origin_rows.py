"""A spec and its origins as the rows of a table: part after part, what has the same origin together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_WIDTH = 72
_TITLES = ("destination", "type", "path")
"""What an element of a list is called by."""


def rows(spec: Mapping[str, Any], origins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Field, value and origin. Long values are cut: the whole of them is in the JSON."""
    found: list[tuple[str, str, str]] = []
    for part, value in spec.items():
        pointer = f"/{_escaped(part)}"
        if isinstance(value, (Mapping, list)):
            for key, title, child in _children(value):
                found += _rows_of(f"{pointer}/{key}", _joined(part, title), child, origins)
        else:
            found += _rows_of(pointer, part, value, origins)
    return found


def origin_of(pointer: str, origins: Mapping[str, str]) -> str:
    """By the longest pointer that leads there."""
    while pointer not in origins and pointer:
        pointer = pointer.rpartition("/")[0]
    return origins.get(pointer, "")


def _rows_of(
    pointer: str, title: str, value: Any, origins: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    whole = _uniform(pointer, value, origins)
    if whole is not None:
        yield title, _short(_untitled(value, title)), whole
        return
    parts = [(f"{pointer}/{key}", name, child) for key, name, child in _children(value)]
    if isinstance(value, list):
        groups: dict[str | None, list[Any]] = {}
        for place, _, child in parts:
            groups.setdefault(_uniform(place, child, origins), []).append(child)
        if None not in groups:
            yield from ((title, _short(group), origin or "") for origin, group in groups.items())
            return
    if title.endswith("]") and isinstance(value, Mapping):  # an element: what has one origin stays together
        together: dict[str, dict[str, Any]] = {}
        for place, name, child in parts:
            if (origin := _uniform(place, child, origins)) is not None:
                together.setdefault(origin, {})[name] = child
        for origin, members in together.items():
            yield title, _short(_untitled(members, title)), origin
        parts = [part for part in parts if _uniform(part[0], part[2], origins) is None]
    for place, name, child in parts:
        yield from _rows_of(place, _joined(title, name), child, origins)


def _uniform(pointer: str, value: Any, origins: Mapping[str, str]) -> str | None:
    """The origin of all that is in a value; None when there are several."""
    found = set(_origins_in(pointer, value, origins))
    return found.pop() if len(found) == 1 else None


def _origins_in(pointer: str, value: Any, origins: Mapping[str, str]) -> Iterator[str]:
    children = list(_children(value))
    if not children:
        yield origin_of(pointer, origins)
    for key, _, child in children:
        yield from _origins_in(f"{pointer}/{key}", child, origins)


def _children(value: Any) -> Iterator[tuple[str, str, Any]]:
    """The pointer's step to each, what it is called, and itself."""
    if isinstance(value, Mapping):
        yield from ((_escaped(key), str(key), child) for key, child in value.items())
    elif isinstance(value, list):
        for position, child in enumerate(value):
            titles = [child[key] for key in _TITLES if key in child] if isinstance(child, Mapping) else []
            yield str(position), f"[{titles[0] if titles else position}]", child


def _joined(title: str, name: str) -> str:
    return f"{title}{name}" if name.startswith("[") else f"{title}.{name}"


def _untitled(value: Any, title: str) -> Any:
    """An element without what it is called by already."""
    if not isinstance(value, Mapping) or not title.endswith("]"):
        return value
    return {key: item for key, item in value.items() if not title.endswith(f"[{item}]")}


def _short(value: Any) -> str:
    text = _flat(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 2]} …"


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not value:
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(item if item and " " not in item else json.dumps(item) for item in value)
    if isinstance(value, list) and len(value) == 1:
        return _flat(value[0])
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_inner(item)}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False)


def _inner(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
