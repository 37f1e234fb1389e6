"""In which fields two values differ, for an AlreadyExists that helps."""

from __future__ import annotations

from dataclasses import fields, is_dataclass


def differing_fields(left: object, right: object, path: str = "") -> tuple[str, ...]:
    """Dotted names of the fields in which two values of one dataclass differ."""
    if left == right:
        return ()
    if not is_dataclass(left) or type(left) is not type(right):
        return (path,)
    found: list[str] = []
    for item in fields(left):
        name = f"{path}.{item.name}" if path else item.name
        found += differing_fields(getattr(left, item.name), getattr(right, item.name), name)
    return tuple(found)
