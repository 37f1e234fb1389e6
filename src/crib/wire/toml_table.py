"""TOML documents of other programs, read strictly: every complaint names the key that it is about."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

DOCUMENT_BYTES = 1 << 20
"""Longest document that is read."""


class MalformedToml(ValueError):
    """The document is not TOML, or a key in it is unknown or not of its kind; the message says which."""


class Table:
    """One table of a document; `path` is what its keys are called by in messages."""

    def __init__(self, content: Mapping[str, Any], path: str = "") -> None:
        self.content = content
        self.path = path

    @classmethod
    def of_document(cls, data: bytes) -> Table:
        """The root of a document. Raises MalformedToml, with the line where there is one."""
        if len(data) > DOCUMENT_BYTES:
            raise MalformedToml(f"is longer than {DOCUMENT_BYTES} bytes")
        try:
            return cls(tomllib.loads(data.decode()))
        except UnicodeDecodeError as error:
            raise MalformedToml(f"is not UTF-8 at byte {error.start}") from error
        except RecursionError:
            raise MalformedToml("is nested too deeply") from None
        except ValueError as error:  # also numbers with more digits than Python takes
            raise MalformedToml(f"is not TOML: {error}") from error

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that are not in `known`: a misspelt one would else be silently without effect."""
        for key in self.content:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f", did you mean {near[0]}?" if near else ""
                raise MalformedToml(f"{self.name(key)} is not known{hint}")

    def name(self, key: str) -> str:
        """A key with the tables around it, as messages call it."""
        plain = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        word = key if plain else json.dumps(without_login(key)[:200])
        return f"{self.path}.{word}" if self.path else word

    def string(self, key: str, default: str = "") -> str:
        """A string without control characters; they have no use in names, paths and URLs."""
        value = self.content.get(key, default)
        if not isinstance(value, str):
            raise MalformedToml(f"{self.name(key)} must be a string")
        if value and not value.isprintable():
            raise MalformedToml(f"{self.name(key)} has control characters in it")
        return value

    def boolean(self, key: str) -> bool | None:
        """True or false; None when it is not set."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, bool):
            raise MalformedToml(f"{self.name(key)} must be true or false")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """An array of strings, empty when it is not set."""
        return tuple(Table({key: item}, self.path).string(key) for item in self.array(key))

    def array(self, key: str) -> list[Any]:
        """An array of anything, empty when it is not set."""
        value = self.content.get(key, [])
        if not isinstance(value, list):
            raise MalformedToml(f"{self.name(key)} must be an array")
        return value

    def table(self, key: str) -> Table:
        """A table, empty when it is not set."""
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            raise MalformedToml(f"{self.name(key)} must be a table")
        return Table(value, self.name(key))

    def tables(self, key: str, most: int) -> list[Table]:
        """An array of tables, at most so many."""
        found = self.array(key)
        if len(found) > most:
            raise MalformedToml(f"{self.name(key)} has {len(found)} entries, at most {most} are taken")
        if not all(isinstance(item, dict) for item in found):
            raise MalformedToml(f"{self.name(key)} must be an array of tables")
        return [Table(item, f"{self.name(key)}[{number}]") for number, item in enumerate(found)]


def without_login(url: str) -> str:
    """A URL fit for a message: without user and password."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, separator, _ = head.partition("://")
    return f"{scheme}{separator}…@{tail}" if separator else f"…@{tail}"
