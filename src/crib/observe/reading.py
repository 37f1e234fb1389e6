"""How metrics are read: what the rooms keep, at one moment, on the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from crib.engine.gauges import Gauges
from crib.engine.node import Node
from crib.model.tallies import CallFigures, Durations, Labels, Tally
from crib.observe.logs import LogFigures


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the rooms keep what they count."""

    node: Node
    version: str
    is_ready: Callable[[], bool]
    calls: CallFigures
    streams: Tally
    """Requests for streams, by kind."""
    connections: Callable[[], int]
    """Of clients of streams."""
    log: LogFigures
    spans: Callable[[], Mapping[str, int]] = dict
    """What became of them, by outcome."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at all of it."""

    sources: Sources
    now: Gauges


Values: TypeAlias = Mapping[Labels, float]
Series: TypeAlias = Mapping[Labels, Durations]


@dataclass(frozen=True, slots=True)
class DaemonMetric:
    """One metric. A counter only grows, a gauge is what is so now, a histogram is of seconds."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    read: Callable[[Seen], Values | Series]
    labels: Labels = ()


Taken: TypeAlias = Sequence[tuple[DaemonMetric, Values | Series]]
"""What was read at one moment."""
