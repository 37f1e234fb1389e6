"""Metrics of volumes and of storage drivers (CSI): a part of the table in `families`."""

from __future__ import annotations

from collections.abc import Mapping

from crib.observe.reading import DaemonMetric, Values


def _by_kind(counts: Mapping[str, int]) -> Values:
    return {(kind,): count for kind, count in counts.items()}


VOLUME_FAMILIES: tuple[DaemonMetric, ...] = (
    DaemonMetric(
        "gauge",
        "crib_volumes",
        "Volumes that the daemon keeps for pods without a kubelet, by kind.",
        lambda seen: _by_kind(seen.now.volumes),
        ("kind",),
    ),
    DaemonMetric(
        "gauge",
        "crib_volume_uses",
        "Pods' uses of these volumes, by kind.",
        lambda seen: _by_kind(seen.now.volume_uses),
        ("kind",),
    ),
    DaemonMetric(
        "histogram",
        "crib_volume_step_duration_seconds",
        "Steps of volumes, by kind: create, stage, publish, what undoes them, and the others.",
        lambda seen: seen.sources.node.figures.volumes.durations.series,
        ("kind", "step"),
    ),
    DaemonMetric(
        "counter",
        "crib_volume_step_failures_total",
        "Of these, those that failed or took too long.",
        lambda seen: seen.sources.node.figures.volumes.failures.counts,
        ("kind", "step"),
    ),
)

DRIVER_FAMILIES: tuple[DaemonMetric, ...] = (
    DaemonMetric(
        "histogram",
        "crib_csi_call_duration_seconds",
        "Calls of storage drivers; each repeated call counts.",
        lambda seen: seen.sources.node.volumes.driver_figures.calls.durations.series,
        ("driver", "call"),
    ),
    DaemonMetric(
        "counter",
        "crib_csi_calls_total",
        "The same by the code of the answer: OK, another gRPC code, or BAD_ANSWER.",
        lambda seen: seen.sources.node.volumes.driver_figures.answers.counts,
        ("driver", "call", "code"),
    ),
)
