"""Metrics of node plugins (NRI): a part of the table in `families`."""

from __future__ import annotations

from collections import Counter

from crib.model.plugin_status import PluginState
from crib.observe.reading import DaemonMetric, Seen, Values


def _plugins(seen: Seen) -> Values:
    """How many in each state, also in those that none is in."""
    found = Counter(one.state for one in seen.sources.node.plugin_statuses())
    return {(state.value,): found[state] for state in PluginState if state is not PluginState.GONE}


PLUGIN_FAMILIES: tuple[DaemonMetric, ...] = (
    DaemonMetric(
        "gauge",
        "crib_nri_plugins",
        "Node plugins by state: ready ones take part; waiting and ended are installed ones that do not run.",
        _plugins,
        ("state",),
    ),
    DaemonMetric(
        "histogram",
        "crib_nri_call_duration_seconds",
        "Calls of node plugins, without the wait for a plugin that is at another call.",
        lambda seen: seen.sources.node.plugin_figures.calls.durations.series,
        ("plugin", "call"),
    ),
    DaemonMetric(
        "counter",
        "crib_nri_call_failures_total",
        "Of these, those that a plugin answered with an error, or did not answer.",
        lambda seen: seen.sources.node.plugin_figures.calls.failures.counts,
        ("plugin", "call"),
    ),
    DaemonMetric(
        "counter",
        "crib_nri_call_timeouts_total",
        "Calls that a plugin did not answer in time.",
        lambda seen: seen.sources.node.plugin_figures.timeouts.counts,
        ("plugin",),
    ),
    DaemonMetric(
        "counter",
        "crib_nri_plugins_dropped_total",
        "How often a plugin was sent away: for a time-out, or for what the protocol does not allow.",
        lambda seen: seen.sources.node.plugin_figures.dropped.counts,
        ("plugin",),
    ),
    DaemonMetric(
        "counter",
        "crib_nri_container_updates_total",
        "Containers that a plugin wanted other limits for, asked or unasked.",
        lambda seen: seen.sources.node.plugin_figures.updates.counts,
        ("plugin",),
    ),
    DaemonMetric(
        "counter",
        "crib_nri_evictions_total",
        "Containers that a plugin wanted stopped.",
        lambda seen: seen.sources.node.plugin_figures.evictions.counts,
        ("plugin",),
    ),
)
