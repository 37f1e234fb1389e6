"""Metrics of storage drivers (CSI): a part of the table in `families`."""

from __future__ import annotations

from crib.observe.reading import DaemonMetric

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
