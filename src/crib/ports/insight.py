"""What can be seen of the daemon itself, and how much of it is logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crib.model.log_rule import DumpSection, LogRule


class Insight(Protocol):
    """Of one daemon."""

    def log(self, rule: LogRule) -> None:
        """Follow the rule from now on, until it ends. Exhausted when there are too many."""
        ...

    def reset_log(self) -> None:
        """Follow the settings alone."""
        ...

    def log_rules(self) -> Sequence[LogRule]:
        """Those that are followed, the oldest first."""
        ...

    async def dump(self) -> Sequence[DumpSection]:
        """What the daemon is at: tasks, threads, locks, verbs, descriptors, memory, the end of its log."""
        ...
