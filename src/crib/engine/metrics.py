"""The metrics of pods: whole readings, told again for as long as the settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from crib.engine.core import Core
from crib.engine.stats import ContainerFigures, PodFigures, Stats
from crib.model.container import ContainerRecord
from crib.model.ids import SandboxId
from crib.model.metrics import Metered, PodMetrics
from crib.model.sandbox import SandboxRecord, SandboxState

_SECOND = 1_000_000_000


class Metrics:
    """Reads through the statistics. Nothing is read in the background."""

    def __init__(self, core: Core, stats: Stats) -> None:
        self._clock = core.clock
        self._stats = stats
        self._core = core
        self._kept: dict[SandboxId, PodMetrics] = {}
        """Of the last questions, while there is a period."""

    @property
    def _period(self) -> int:
        return round(self._core.settings.statistics.pod_metrics_period * _SECOND)

    async def pods(self, records: Iterable[SandboxRecord]) -> AsyncIterator[Sequence[PodMetrics]]:
        """Of those that are ready, of all of `records`, in batches: first those that are kept."""
        rows = list(records)
        kept = self._still_fresh(rows)
        if kept:
            yield list(kept.values())
        async for batch in self._stats.pods([row for row in rows if row.id not in kept], whole=True):
            now = self._clock()
            found = [_of_pod(figures, now) for figures in batch]
            if self._period:
                self._kept |= {metrics.sandbox.id: metrics for metrics in found}
            yield found

    def _still_fresh(self, rows: Sequence[SandboxRecord]) -> dict[SandboxId, PodMetrics]:
        """The rest is forgotten. A clock that was set back makes nothing fresh."""
        now, ready = self._clock(), {row.id for row in rows if row.state is SandboxState.READY}
        self._kept = {
            key: metrics
            for key, metrics in self._kept.items()
            if key in ready and 0 <= now - metrics.pod.at < self._period
        }
        return dict(self._kept)


def _of_pod(figures: PodFigures, now: int) -> PodMetrics:
    usage, started_at = figures.usage, figures.sandbox.created_at
    interfaces = usage.network.interfaces if usage.network is not None else ()
    pod = Metered(now, started_at, usage.cgroup, interfaces=interfaces)
    return PodMetrics(figures.sandbox, pod, tuple(_of_container(each, now) for each in figures.containers))


def _of_container(figures: ContainerFigures, now: int) -> tuple[ContainerRecord, Metered]:
    record, usage = figures.container, figures.usage
    return record, Metered(
        now, record.started_at, usage.cgroup, record.resources, usage.writable_layer, usage.room
    )
