"""What is wrong with a manifest, and what is passed over in it: each with its place in the file.

All faults of all documents are collected before anything is refused, so that a person mends them in one go.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FAULTS = 100
"""Faults that are kept of all files together; who has more mends these first."""


@dataclass(frozen=True, slots=True)
class ManifestPlace:
    """Where something is in a manifest: the field's path (`spec.containers[0].image`), and where to look.

    Line and column count from 1; a line of 0 is not known. `file` is as it was typed, empty for a text
    that is no file; `rank` is its position among the files.
    """

    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    rank: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line and self.file else self.file
        return ": ".join(part for part in (where, self.path) if part)


@dataclass(frozen=True, slots=True)
class ManifestFault:
    """One thing that is wrong."""

    place: ManifestPlace
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if str(self.place) else self.message

    @property
    def order(self) -> tuple[int, int, int, str, str]:
        """As a person reads the files."""
        place = self.place
        return (place.rank, place.line, place.column, place.path, self.message)


class ManifestError(Exception):
    """The manifest is wrong; `faults` has everything that is, in the order of the files."""

    def __init__(self, place: ManifestPlace | str, message: str) -> None:
        super().__init__(message)
        self.faults: tuple[ManifestFault, ...] = (ManifestFault(_place(place), message),)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


class Faults:
    """The faults of a reading, each of them once."""

    def __init__(self) -> None:
        self._found: dict[ManifestFault, None] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, place: ManifestPlace | str, message: str) -> None:
        """Keep a fault. What comes after the first MAX_FAULTS is not kept."""
        if len(self._found) < MAX_FAULTS:
            self._found[ManifestFault(_place(place), message)] = None

    @contextlib.contextmanager
    def gather(self) -> Iterator[None]:
        """Keep the faults of a ManifestError that ends the block, and go on after it."""
        try:
            yield
        except ManifestError as error:
            for fault in error.faults:
                self.add(fault.place, fault.message)

    def check(self) -> None:
        """Raise ManifestError with everything that was found, if anything was."""
        if not self._found:
            return
        error = ManifestError("", "")
        error.faults = tuple(sorted(self._found, key=lambda fault: fault.order))
        if len(self._found) == MAX_FAULTS:
            error.faults += (
                ManifestFault(
                    ManifestPlace(), f"there may be more than {MAX_FAULTS} faults: mend these first"
                ),
            )
        raise error


class Notes:
    """What was accepted without effect, once each, in the order in which it was found."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._unkept: dict[str, None] = {}

    def add_unkept(self, place: ManifestPlace | str) -> None:
        """A field that has an effect only while somebody keeps the pod up."""
        self._unkept[_place(place).path] = None

    def unkept(self) -> tuple[str, ...]:
        """The paths of these fields."""
        return tuple(self._unkept)

    def add(self, place: ManifestPlace | str, text: str) -> None:
        """Keep a line for the person."""
        path = _place(place).path
        self._lines[f"{path}: {text}" if path else text] = None

    def all(self) -> tuple[str, ...]:
        """The lines."""
        return tuple(self._lines)


@dataclass(frozen=True, slots=True)
class Book:
    """What a reading writes down: faults of everything, notes of one pod (or of what is no pod)."""

    faults: Faults
    notes: Notes

    def for_pod(self) -> Book:
        """The same faults, notes of its own."""
        return Book(self.faults, Notes())


def _place(place: ManifestPlace | str) -> ManifestPlace:
    return place if isinstance(place, ManifestPlace) else ManifestPlace(place)
