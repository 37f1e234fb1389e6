"""Rules for the daemon's log, and looks into it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from crib.api.translate import checks
from crib.model.log_rule import DumpSection, LogRule
from crib.stubs.node.v1 import node_pb2 as pb

LEVELS = ("debug", "info", "warning", "error", "critical")
TEXT_LIMIT = 256
"""Bytes of what a rule's lines belong to."""
USUAL_NS = 600 * 10**9
"""How long a rule lasts that says nothing of it."""
MOST_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class LogOrder:
    """How the log is to change."""

    reset: bool
    """First all rules end."""
    rule: LogRule | None


def decode_log_level(message: pb.SetLogLevelRequest) -> LogOrder:
    if not message.level and message.reset:
        return LogOrder(True, None)
    if message.level not in LEVELS:
        checks.refuse("level", f"is {message.level!r}, not one of {', '.join(LEVELS)}")
    if not 0 <= message.duration_ns <= MOST_NS:
        checks.refuse("duration_ns", f"is {message.duration_ns}, not between 0 and {MOST_NS}")
    rule = LogRule(
        level=message.level,
        pod=_text(message.pod, "pod"),
        container=_text(message.container, "container"),
        verb=_text(message.verb, "verb"),
        caller=_text(message.caller, "caller"),
        ends_at=time.time_ns() + (message.duration_ns or USUAL_NS),
    )
    return LogOrder(message.reset, rule)


def _text(text: str, field: str) -> str:
    if not (text.isprintable() or not text):
        checks.refuse(field, "has control characters in it")
    return checks.short(text, TEXT_LIMIT, field)


def encode_rules(rules: Sequence[LogRule]) -> list[pb.LogRule]:
    """For an answer."""
    return [pb.LogRule(**dataclasses.asdict(rule)) for rule in rules]


def encode_dump(sections: Sequence[DumpSection]) -> pb.InspectDaemonResponse:
    return pb.InspectDaemonResponse(
        sections=[
            pb.DumpSection(
                name=one.name,
                lines=[line.encode(errors="replace").decode() for line in one.lines],
                left_out=one.left_out,
            )
            for one in sections
        ]
    )
