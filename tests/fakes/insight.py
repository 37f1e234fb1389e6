"""A daemon that shows nothing of itself, and follows every rule for its log."""

from __future__ import annotations

from collections.abc import Sequence

from crib.model.log_rule import DumpSection, LogRule


class FakeInsight:
    """`rules` are those that were asked for."""

    def __init__(self) -> None:
        self.rules: list[LogRule] = []

    def log(self, rule: LogRule) -> None:
        self.rules.append(rule)

    def reset_log(self) -> None:
        self.rules.clear()

    def log_rules(self) -> Sequence[LogRule]:
        return tuple(self.rules)

    async def dump(self) -> Sequence[DumpSection]:
        return (DumpSection("tasks", ("one task",), 3),)
