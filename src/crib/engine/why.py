"""Why a container has ended, for a person who asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crib.engine.core import Core
from crib.engine.endings import WantedEnd
from crib.model.container import ContainerRecord
from crib.model.ends import ContainerEnd
from crib.model.errors import NotFound
from crib.model.lifecycle import is_listed


@dataclass(frozen=True, slots=True)
class ToldEnd:
    """A container with its record, its end, or both."""

    pod: str
    """NAMESPACE/NAME."""
    record: ContainerRecord | None
    """None: it has been removed."""
    end: ContainerEnd | None
    """None: it has not ended, or not in the time of a crib that kept why."""


class Why:
    """Looks through what has ended, and through what is there."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __call__(self, wanted: WantedEnd) -> Sequence[ToldEnd]:
        """Those that run first, then the latest ends. NotFound when nothing fits."""
        ends = {end.id: end for end in self._core.ends.find(wanted)}
        there = {row.id: row for row in self._core.containers if is_listed(row) and self._fits(wanted, row)}
        found = [ToldEnd(self._core.pod_of(row), row, None) for row in there.values() if row.id not in ends]
        found += [ToldEnd(end.pod, there.get(end.id), end) for end in ends.values()]
        if not found:
            container = f" with a container {wanted.name!r}" if wanted.name else ""
            raise NotFound(f"there was no pod or container {wanted.target!r}{container} in the last day")
        return found

    def _fits(self, wanted: WantedEnd, row: ContainerRecord) -> bool:
        return wanted.means(row.id, self._core.pod_of(row), row.config.name)
