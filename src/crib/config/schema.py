"""A JSON schema of a configuration file, made of the bounds beside the fields.

It has what a schema can say: keys, types, numbers, choices. Forms of text, and what keys say of each other,
are left to cribd's own check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin

from crib.config.defaults import explanations
from crib.model.keys import AtLeast, Between, Bound, Form, Is, OneOf, fields_of, is_live, is_part, unwrapped
from crib.model.settings import Settings

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema() -> dict[str, Any]:
    """Of the whole file, as JSON has it."""
    return {"$schema": DRAFT, "title": "crib's configuration", **_of_table(Settings())}


def _of_table(table: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": _properties(table, live=False)}


def _properties(table: Any, *, live: bool) -> dict[str, Any]:
    kind: type = type(table)
    told = explanations(kind)
    found: dict[str, Any] = {}
    for name, hint in fields_of(kind).items():
        value = getattr(table, name)
        follows = live or is_live(hint)
        if is_part(hint):
            found |= _properties(value, live=follows)
        elif dataclasses.is_dataclass(value):
            inner = {"properties": _properties(value, live=follows)}
            found[name] = {"type": "object", "additionalProperties": False, **inner}
        else:
            bare, bounds = unwrapped(hint)
            key = _of_value(bare, bounds) | {"default": _plain(value)}
            if name in told:
                key["description"] = told[name] if follows else f"{told[name]} (restart)"
            found[name] = key
    return found


def _of_value(kind: Any, bounds: tuple[Bound, ...]) -> dict[str, Any]:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _of_table(kind())
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _of_value(*unwrapped(get_args(kind)[0]))}
    if get_origin(kind) is Mapping:
        return {"type": "object", "additionalProperties": _of_value(*unwrapped(get_args(kind)[1]))}
    if isinstance(kind, UnionType):
        return {"type": [_TYPES[one] for one in get_args(kind)]}
    found: dict[str, Any] = {"type": _TYPES[kind]}
    for bound in bounds:
        match bound:
            case OneOf(choices):
                found["enum"] = list(choices)
            case AtLeast(least):
                found["minimum"] = least
            case Between(least, most):
                found |= {"minimum": least, "maximum": most}
            case Is(Form.PATH, or_empty):
                found["pattern"] = "^(/.*)?$" if or_empty else "^/"
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {}  # what a handler leaves open is the node's
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return list(value) if isinstance(value, tuple) else value
