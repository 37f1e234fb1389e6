"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    place: str
    """FILE:LINE:COLUMN, FILE, or the name of an environment variable."""
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class ConfigError(Exception):
    """A configuration that cannot be used; the message has a line for each fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)
