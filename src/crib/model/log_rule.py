"""What an administrator wants to read in the daemon's log for a while, and what a dump of it has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogRule:
    """A level of the log, for all lines or for some; of what is empty any will do."""

    level: str
    """debug, info, warning, error or critical."""
    pod: str = ""
    """NAMESPACE/NAME, NAME, or an id or its beginning."""
    container: str = ""
    """Its name, or its id or a beginning of that."""
    verb: str = ""
    """A call's name, as StopContainer, in any case."""
    caller: str = ""
    """A part of what the client calls itself or, with the audit, of its executable, or its pid."""
    ends_at: int = 0

    @property
    def is_for_all(self) -> bool:
        return not (self.pod or self.container or self.verb or self.caller)


@dataclass(frozen=True, slots=True)
class DumpSection:
    """One part of what a look into the daemon shows."""

    name: str
    lines: tuple[str, ...]
    left_out: int = 0
    """Lines that found no room."""
