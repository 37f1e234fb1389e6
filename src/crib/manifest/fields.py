"""Strict access to the fields of a document.

A value that is wrong is written down as a fault with its place, and its default is given instead: the reading
goes on, and whoever began it refuses the manifest at the end. Names follow RFC 1123 (labels and subdomains),
because they become parts of paths.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crib.manifest.faults import Book, Faults, ManifestError, ManifestPlace, Notes

if TYPE_CHECKING:
    import yaml

MAX_ITEMS = 1000
"""Entries of one list or map: far more than a pod has, few enough to refuse nonsense early."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What Kubernetes knows in one kind of object.

    `used` is translated, `refused` maps names to the reason why not, `noted` maps names to what a person is
    told while the field is passed over.
    """

    used: frozenset[str]
    refused: Mapping[str, str] = field(default_factory=dict)
    noted: Mapping[str, str] = field(default_factory=dict)


MAX_NUMBER = 2**31 - 1
"""What most of Kubernetes' whole numbers may be."""


class ManifestNode:
    """One object of a document: its fields are asked for by name and type, and checked as they are.

    `tree` is what PyYAML composed the object from. It is only looked at to say where something is.
    """

    def __init__(
        self, value: object, place: ManifestPlace, book: Book, tree: yaml.Node | None = None
    ) -> None:
        """ManifestError when `value` is no object."""
        self.place = place
        self.book = book
        self._tree = tree
        self._parts: Mapping[str, ManifestNode] = {}
        self._meant: set[str] = set()  # known names that unknown ones probably mean
        if not isinstance(value, dict):
            raise ManifestError(place, f"must be an object, not {_kind(value)}")
        for key in value:
            if not isinstance(key, str):
                book.faults.add(place, f"the name {key!r} must be a string; put it in quotes")
        self._value: dict[str, object] = {key: item for key, item in value.items() if isinstance(key, str)}

    @property
    def path(self) -> str:
        """Of this object in its document."""
        return self.place.path

    @property
    def notes(self) -> Notes:
        """Where what has no effect is told."""
        return self.book.notes

    @property
    def faults(self) -> Faults:
        """Where faults are kept."""
        return self.book.faults

    def at(self, name: str) -> ManifestPlace:
        """The place of a field of this object, or of the object when it has no such field."""
        path = f"{self.path}.{name}" if self.path else name
        for key, _ in reversed(_pairs(self._tree)):
            if getattr(key, "value", None) == name:
                return _at_mark(replace(self.place, path=path), key)
        return replace(self.place, path=path)

    def item(self, name: str, index: int) -> ManifestPlace:
        """The place of one element of a list."""
        place = self.at(name)
        elements = getattr(self._below(name), "value", None)
        inner = replace(place, path=f"{place.path}[{index}]")
        if isinstance(elements, list) and index < len(elements) and hasattr(elements[index], "start_mark"):
            return _at_mark(inner, elements[index])
        return inner

    def wrong(self, name: str, message: str) -> None:
        """Write down that a field (the object itself, if `name` is empty) is wrong; the reading goes on."""
        self.faults.add(self.at(name) if name else self.place, message)

    def assume(self, name: str, value: str) -> None:
        """Give the object a field that it does not have."""
        self._value.setdefault(name, value)

    def with_fields(self, **fields: object) -> ManifestNode:
        """The same object with other values for these fields, which are in no file."""
        return ManifestNode({**self._value, **fields}, self.place, self.book, self._tree)

    def with_parts(self, **parts: ManifestNode) -> ManifestNode:
        """The same object with other objects for these fields."""
        found = self.with_fields(**{name: part.value() for name, part in parts.items()})
        found._parts = parts
        return found

    def beside(self, book: Book) -> ManifestNode:
        """The same object, whose faults and notes are written down elsewhere."""
        found = ManifestNode(self._value, self.place, book, self._tree)
        found._parts = self._parts
        return found

    def check(self, shape: Shape) -> None:
        """Refuse names that `shape` does not have or refuses; note those that have no effect."""
        for name, value in self._value.items():
            if name in shape.used:
                continue
            if _is_unset(value) and (name in shape.refused or name in shape.noted):
                continue
            if name in shape.refused:
                self.wrong(name, f"not supported: {shape.refused[name]}")
            elif name in shape.noted:
                self.notes.add(self.at(name), shape.noted[name])
            else:
                known = [*shape.used, *shape.refused, *shape.noted]
                hint = nearest(name, known)
                self._meant.add(hint.rpartition(" ")[2])
                self.wrong(name, f"unknown field{hint}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._value.get(name) is not None

    def raw(self, name: str) -> object:
        """The value as the document has it; None when it is absent."""
        return self._value.get(name)

    def names(self) -> list[str]:
        """The names of the fields that are there and not null."""
        return [name for name, value in self._value.items() if value is not None]

    def value(self) -> dict[str, object]:
        """The object itself, without fields that are null."""
        return {name: value for name, value in self._value.items() if value is not None}

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._value.get(name)
        if value is None:
            return default
        problem = _text_problem(value)
        if problem:
            self.wrong(name, problem)
            return ""
        assert isinstance(value, str)
        return value

    def need_text(self, name: str) -> str:
        """A string that must be there and not be empty; empty if it is not."""
        value = self.text(name)
        if not value and self._value.get(name) in (None, "") and name not in self._meant:
            self.wrong(name, "is required")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of a few words; `default` when it is absent or none of them."""
        value = self.text(name, default)
        if value in allowed:
            return value
        if self._value.get(name) is None:
            self.wrong(name, "is required")
        elif isinstance(self._value[name], str):
            words = ", ".join(word or '""' for word in allowed)
            self.wrong(name, f"{value!r} is not one of {words}")
        return default

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds; None when it is absent."""
        value = self._value.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(name, f"must be a whole number, not {_kind(value)}")
        elif not low <= value <= high:
            shown = str(value) if abs(value) < 1 << 64 else "it"
            self.wrong(name, f"{shown} is not between {low} and {high}")
        else:
            return value
        return None

    def flag(self, name: str) -> bool | None:
        """true or false; None when it is absent."""
        value = self._value.get(name)
        if value is None or isinstance(value, bool):
            return value
        self.wrong(name, f"must be true or false, not {_kind(value)}")
        return None

    def child(self, name: str) -> ManifestNode | None:
        """An object; None when it is absent."""
        if name in self._parts:
            return self._parts[name].beside(self.book)
        value = self._value.get(name)
        if value is None:
            return None
        with self.faults.gather():
            return ManifestNode(value, self.at(name), self.book, self._below(name))
        return None

    def part(self, name: str) -> ManifestNode:
        """An object; an empty one when it is absent."""
        return self.child(name) or ManifestNode({}, self.at(name), self.book)

    def children(self, name: str) -> list[ManifestNode]:
        """A list of objects; empty when it is absent."""
        found = []
        trees = getattr(self._below(name), "value", ())
        for index, value in enumerate(self._list(name)):
            tree = trees[index] if index < len(trees) else None
            with self.faults.gather():
                found.append(ManifestNode(value, self.item(name, index), self.book, tree))
        return found

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty when it is absent."""
        values: list[str] = []
        for index, value in enumerate(self._list(name)):
            problem = _text_problem(value)
            if problem:
                self.faults.add(self.item(name, index), problem)
            elif isinstance(value, str):
                values.append(value)
        return values

    def numbers(self, name: str, high: int = MAX_NUMBER) -> list[int]:
        """A list of whole numbers from 0 to `high`; empty when it is absent."""
        values: list[int] = []
        for index, value in enumerate(self._list(name)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
                self.faults.add(self.item(name, index), f"must be a whole number from 0 to {high}")
            else:
                values.append(value)
        return values

    def mapping(self, name: str) -> dict[str, str]:
        """An object whose values are strings (labels, annotations); empty when it is absent."""
        found = self.child(name)
        if found is None:
            return {}
        if len(found.names()) > MAX_ITEMS:
            self.wrong(name, f"has more than {MAX_ITEMS} entries")
            return {}
        return {key: found.text(key) for key in found.names()}

    def _list(self, name: str) -> list[object]:
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(name, f"must be a list, not {_kind(value)}")
            return []
        if len(value) > MAX_ITEMS:
            self.wrong(name, f"has more than {MAX_ITEMS} entries")
            return []
        return value

    def _below(self, name: str) -> yaml.Node | None:
        for key, value in reversed(_pairs(self._tree)):
            if getattr(key, "value", None) == name:
                return value
        return None


def nearest(name: str, known: list[str]) -> str:
    """The end of a message: the known name that was probably meant; empty when none is like it."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; the nearest known name is {near[0]}" if near else ""


_SURROGATE = re.compile("[\\ud800-\\udfff]")


def _text_problem(value: object) -> str:
    """Why it cannot be a string of the CRI; empty when it can."""
    if not isinstance(value, str):
        return f"must be a string, not {_kind(value)}; put it in quotes"
    if "\0" in value:
        return "must not hold a zero byte"
    return "must not hold half of a character (a surrogate)" if _SURROGATE.search(value) else ""


def _pairs(tree: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    """Of a mapping; merged ones (`<<`) come first, because PyYAML put them there."""
    value = getattr(tree, "value", None)
    return value if isinstance(value, list) and value and isinstance(value[0], tuple) else []


def _at_mark(place: ManifestPlace, node: yaml.Node) -> ManifestPlace:
    return replace(place, line=node.start_mark.line + 1, column=node.start_mark.column + 1)


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


def is_label(value: str) -> bool:
    """Whether it is an RFC 1123 label."""
    return bool(_LABEL.fullmatch(value))


def check_label(node: ManifestNode, name: str, default: str = "") -> str:
    """A required field that is an RFC 1123 label; empty if it is none."""
    value = node.text(name) or default or node.need_text(name)
    if value and not is_label(value):
        node.wrong(name, f"{value!r} must be at most 63 of a-z, 0-9 and '-', not at its ends")
        return ""
    return value


_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


def is_subdomain(value: str) -> bool:
    """Whether it is a subdomain as Kubernetes has it: RFC 1123, but only the whole has a greatest length."""
    return len(value) <= 253 and bool(_SUBDOMAIN.fullmatch(value))


def check_subdomain(node: ManifestNode, name: str) -> str:
    """A required field that is an RFC 1123 subdomain; empty if it is none."""
    value = node.need_text(name)
    if value and not is_subdomain(value):
        node.wrong(name, f"{value!r} must be at most 253 of a-z, 0-9, '-' and '.'")
        return ""
    return value


def is_uid(value: str) -> bool:
    """Whether a pod's uid may name a directory."""
    return bool(_UID.fullmatch(value))


def is_env_name(value: str) -> bool:
    """Whether it may be the name of an environment variable."""
    return bool(_ENV.fullmatch(value))


def unique(nodes: list[ManifestNode], name: str, what: str) -> Iterator[ManifestNode]:
    """The nodes whose field `name` no node before them has; the others are faults."""
    seen: set[str] = set()
    for node in nodes:
        value = node.raw(name)
        if isinstance(value, str) and value in seen:
            node.wrong(name, f"{what} {value!r} is there twice")
            continue
        if isinstance(value, str):
            seen.add(value)
        yield node
