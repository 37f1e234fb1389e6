"""What a case declares: its RPC, how binding it is, where that is written, and the fields it covers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from crib.conform.trial import Trial


class Level(StrEnum):
    """How binding a case is. Only a MUST that fails makes the run fail."""

    MUST = "must"
    SHOULD = "should"
    OPTIONAL = "optional"
    """A runtime that does not offer it is skipped; one that offers it is held to it."""


Check: TypeAlias = Callable[["Trial"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One question to a runtime."""

    rpc: str
    name: str
    title: str
    """A sentence: what must hold."""
    level: Level
    source: str
    """Where it is written: the interface's comments, a KEP, or the part of the kubelet that relies on it."""
    fields: frozenset[str]
    """`Message.field` of runtime.v1: set or observed."""
    check: Check

    @property
    def id(self) -> str:
        """RPC/name, by which `--only` picks."""
        return f"{self.rpc}/{self.name}"


_declared: dict[str, Case] = {}


def case(rpc: str, level: Level, source: str, *fields: str) -> Callable[[Check], Check]:
    """Declare a case. Its function's docstring is the title; `fields` are written `Message.one,other`."""

    def declare(check: Check) -> Check:
        title = " ".join((check.__doc__ or "").split()).rstrip(".")
        found = Case(rpc, check.__name__, title, level, source, _every_field(fields), check)
        assert found.id not in _declared, f"two cases are called {found.id}"
        _declared[found.id] = found
        return check

    return declare


def declared() -> list[Case]:
    """Every case of the modules that were imported, in their order."""
    return list(_declared.values())


def _every_field(fields: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    for entry in fields:
        message, _, names = entry.partition(".")
        found.update(f"{message}.{name}" for name in names.split(","))
    return frozenset(found)
