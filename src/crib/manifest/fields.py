"""Strict access to the fields of a document. Every value has a path, which errors name.

Names follow RFC 1123 (labels and subdomains), because they become parts of paths.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_ITEMS = 1000
"""Entries of one list or map: far more than a pod has, few enough to refuse nonsense early."""


class ManifestError(Exception):
    """The manifest is wrong. `path` is the field's (`spec.containers[0].image`), empty for the document."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class Shape:
    """What Kubernetes knows in one kind of object.

    `used` is translated, `refused` maps names to the reason why not, `noted` maps names to what a person is
    told while the field is passed over.
    """

    used: frozenset[str]
    refused: Mapping[str, str] = field(default_factory=dict)
    noted: Mapping[str, str] = field(default_factory=dict)


class Notes:
    """What was accepted without effect, once each, in the order in which it was found."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._unkept: dict[str, None] = {}

    def add_unkept(self, path: str) -> None:
        """A field that has an effect only while somebody keeps the pod up."""
        self._unkept[path] = None

    def unkept(self) -> tuple[str, ...]:
        """The paths of these fields."""
        return tuple(self._unkept)

    def add(self, path: str, text: str) -> None:
        self._lines[f"{path}: {text}"] = None

    def all(self) -> tuple[str, ...]:
        return tuple(self._lines)


class ManifestNode:
    """One object of the document: its fields are asked for by name and type, and checked as they are."""

    def __init__(self, value: object, path: str, notes: Notes) -> None:
        self.path = path
        self.notes = notes
        if not isinstance(value, dict):
            raise ManifestError(path, f"must be an object, not {_kind(value)}")
        for key in value:
            if not isinstance(key, str):
                raise ManifestError(path, f"the name {key!r} must be a string; put it in quotes")
        self._value: dict[str, object] = value

    def at(self, name: str) -> str:
        """The path of a field of this object."""
        return f"{self.path}.{name}" if self.path else name

    def check(self, shape: Shape) -> None:
        """Refuse names that `shape` does not have or refuses; note those that have no effect."""
        for name, value in self._value.items():
            if name in shape.used:
                continue
            if _is_unset(value) and (name in shape.refused or name in shape.noted):
                continue
            if name in shape.refused:
                raise ManifestError(self.at(name), f"not supported: {shape.refused[name]}")
            if name in shape.noted:
                self.notes.add(self.at(name), shape.noted[name])
                continue
            known = [*shape.used, *shape.refused, *shape.noted]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"; the nearest known name is {near[0]}" if near else ""
            raise ManifestError(self.at(name), f"unknown field{hint}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._value.get(name) is not None

    def raw(self, name: str) -> object:
        """The value as the document has it; None when it is absent."""
        return self._value.get(name)

    def names(self) -> list[str]:
        """The names of the fields that are there and not null."""
        return [name for name, value in self._value.items() if value is not None]

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._value.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ManifestError(self.at(name), f"must be a string, not {_kind(value)}; put it in quotes")
        if "\0" in value:
            raise ManifestError(self.at(name), "must not hold a zero byte")
        return value

    def need_text(self, name: str) -> str:
        """A string that must be there and not be empty."""
        value = self.text(name)
        if not value:
            raise ManifestError(self.at(name), "is required")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of a few words."""
        value = self.text(name, default)
        if value not in allowed:
            words = ", ".join(word or '""' for word in allowed)
            raise ManifestError(self.at(name), f"{value!r} is not one of {words}")
        return value

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds; None when it is absent."""
        value = self._value.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise ManifestError(self.at(name), f"must be a whole number, not {_kind(value)}")
        if not low <= value <= high:
            raise ManifestError(self.at(name), f"{value} is not between {low} and {high}")
        return value

    def flag(self, name: str) -> bool | None:
        """true or false; None when it is absent."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, bool):
            raise ManifestError(self.at(name), f"must be true or false, not {_kind(value)}")
        return value

    def child(self, name: str) -> ManifestNode | None:
        """An object; None when it is absent."""
        value = self._value.get(name)
        return None if value is None else ManifestNode(value, self.at(name), self.notes)

    def children(self, name: str) -> list[ManifestNode]:
        """A list of objects; empty when it is absent."""
        return [
            ManifestNode(value, f"{self.at(name)}[{index}]", self.notes)
            for index, value in enumerate(self._list(name))
        ]

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty when it is absent."""
        values: list[str] = []
        for index, value in enumerate(self._list(name)):
            if not isinstance(value, str):
                path = f"{self.at(name)}[{index}]"
                raise ManifestError(path, f"must be a string, not {_kind(value)}; put it in quotes")
            values.append(value)
        return values

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers from 0; empty when it is absent."""
        values: list[int] = []
        for index, value in enumerate(self._list(name)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ManifestError(f"{self.at(name)}[{index}]", "must be a whole number from 0")
            values.append(value)
        return values

    def mapping(self, name: str) -> dict[str, str]:
        """An object whose values are strings (labels, annotations); empty when it is absent."""
        found = self.child(name)
        if found is None:
            return {}
        if len(found.names()) > MAX_ITEMS:
            raise ManifestError(self.at(name), f"has more than {MAX_ITEMS} entries")
        return {key: found.text(key) for key in found.names()}

    def _list(self, name: str) -> list[object]:
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ManifestError(self.at(name), f"must be a list, not {_kind(value)}")
        if len(value) > MAX_ITEMS:
            raise ManifestError(self.at(name), f"has more than {MAX_ITEMS} entries")
        return value


def _is_unset(value: object) -> bool:
    return value is None or value in ({}, [], "") or value is False


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")


_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,62}[A-Za-z0-9])?")
_ENV = re.compile(r"[^=\0]+")


def check_label(node: ManifestNode, name: str, default: str = "") -> str:
    """A required field that is an RFC 1123 label."""
    value = node.text(name) or default or node.need_text(name)
    if not _LABEL.fullmatch(value):
        raise ManifestError(
            node.at(name), f"{value!r} must be at most 63 of a-z, 0-9 and '-', not at its ends"
        )
    return value


def check_subdomain(node: ManifestNode, name: str) -> str:
    """A required field that is an RFC 1123 subdomain: labels with dots between them."""
    value = node.need_text(name)
    if len(value) > 253 or not all(_LABEL.fullmatch(part) for part in value.split(".")):
        raise ManifestError(node.at(name), f"{value!r} must be at most 253 of a-z, 0-9, '-' and '.'")
    return value


def is_uid(value: str) -> bool:
    """Whether a pod's uid may name a directory."""
    return bool(_UID.fullmatch(value))


def check_env_name(node: ManifestNode, name: str) -> str:
    """An environment variable's name."""
    value = node.need_text(name)
    if not _ENV.fullmatch(value):
        raise ManifestError(node.at(name), f"{value!r} is not the name of an environment variable")
    return value
