"""Every metric of the daemon: its name, its labels, what it says, and where it is read.

`docs/observability.md` is made from this table, and the dashboard and the alerts are checked against it. The
number of time series is bounded: labels are from closed sets or from tallies, which have a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crib.engine.admission import Load
from crib.model.tallies import Durations, Tally
from crib.observe.plugin_families import PLUGIN_FAMILIES
from crib.observe.reading import DaemonMetric, Seen, Series, Sources, Taken, Values
from crib.observe.volume_families import DRIVER_FAMILIES, VOLUME_FAMILIES


def _one(value: float) -> Values:
    return {(): value}


def _by(counts: Mapping[str, float]) -> Values:
    return {(key,): value for key, value in counts.items()}


def _many(labels: Iterable[str]) -> Values:
    """How often each is there, of labels that nobody has bounded."""
    found = Tally()
    for label in labels:
        found.add((label,))
    return found.counts


def _load(load: Load) -> Values:
    return _by({state: getattr(load, state) for state in ("making", "ending", "overdue", "queued")})


FAMILIES: tuple[DaemonMetric, ...] = (
    DaemonMetric(
        "gauge",
        "crib_build_info",
        "Always 1; the version is a label.",
        lambda seen: _by({seen.sources.version: 1}),
        ("version",),
    ),
    DaemonMetric(
        "gauge",
        "crib_ready",
        "1 when calls are taken, 0 while the daemon recovers or stops.",
        lambda seen: _one(seen.sources.is_ready()),
    ),
    DaemonMetric(
        "gauge",
        "crib_faults",
        "What is wrong with the node now. Nothing new is made while there is any; Status has the texts.",
        lambda seen: _one(seen.now.faults),
    ),
    DaemonMetric(
        "counter",
        "crib_calls_total",
        "gRPC calls that have ended, refused ones included.",
        lambda seen: seen.sources.calls.answered.counts,
        ("method", "code"),
    ),
    DaemonMetric(
        "histogram",
        "crib_call_duration_seconds",
        "From a call's arrival to its answer. Calls that answer with a stream are not in it.",
        lambda seen: seen.sources.calls.durations.series,
        ("method",),
    ),
    DaemonMetric(
        "gauge",
        "crib_calls_open",
        "Calls under way.",
        lambda seen: seen.sources.calls.open.counts,
        ("method",),
    ),
    DaemonMetric(
        "counter",
        "crib_joins_total",
        "Requests that waited for the same work of an earlier request, as a kubelet's retries do.",
        lambda seen: seen.sources.node.keeper.joined.counts,
        ("verb",),
    ),
    DaemonMetric(
        "gauge",
        "crib_verbs",
        "Verbs by where they are: making, ending, overdue (too long at it to keep a place), queued.",
        lambda seen: _load(seen.now.load),
        ("state",),
    ),
    DaemonMetric(
        "gauge",
        "crib_verb_places",
        "Verbs that may make something at once (`making_verbs`).",
        lambda seen: _one(seen.now.load.places),
    ),
    DaemonMetric(
        "histogram",
        "crib_stage_duration_seconds",
        "Stages of pods' starts, as `crib timeline` shows them.",
        lambda seen: seen.sources.node.figures.stages.durations.series,
        ("stage",),
    ),
    DaemonMetric(
        "counter",
        "crib_stage_failures_total",
        "Stages that failed.",
        lambda seen: seen.sources.node.figures.stages.failures.counts,
        ("stage",),
    ),
    DaemonMetric(
        "gauge",
        "crib_work_stuck",
        "Work on a pod or container that has lasted for more than 30 s; `crib work` shows it.",
        lambda seen: _many(seen.now.stuck),
        ("work",),
    ),
    DaemonMetric(
        "gauge",
        "crib_pods",
        "Pod sandboxes by state: creating, ready, not-ready, removing.",
        lambda seen: _by(seen.now.pods),
        ("state",),
    ),
    DaemonMetric(
        "gauge",
        "crib_containers",
        "Containers by state: creating, created, running, exited, unknown, removing.",
        lambda seen: _by(seen.now.containers),
        ("state",),
    ),
    DaemonMetric(
        "counter",
        "crib_container_exits_total",
        "Containers that ended, by reason: Completed, Error, OOMKilled, StartError, Unknown.",
        lambda seen: seen.sources.node.figures.exits.counts,
        ("reason",),
    ),
    DaemonMetric(
        "histogram",
        "crib_pull_duration_seconds",
        "Pulls by the registry that the image is named for. Joined ones count once.",
        lambda seen: seen.sources.node.figures.pulls.durations.series,
        ("registry",),
    ),
    DaemonMetric(
        "counter",
        "crib_pull_failures_total",
        "Pulls that failed.",
        lambda seen: seen.sources.node.figures.pulls.failures.counts,
        ("registry",),
    ),
    DaemonMetric(
        "counter",
        "crib_pulled_bytes_total",
        "Bytes of layers that were fetched, compressed as the registry has them.",
        lambda seen: seen.sources.node.figures.pulled.counts,
        ("registry",),
    ),
    DaemonMetric("gauge", "crib_images", "Images here.", lambda seen: _one(seen.now.images)),
    DaemonMetric("gauge", "crib_layers", "Layers of these images.", lambda seen: _one(seen.now.layers)),
    DaemonMetric(
        "gauge",
        "crib_layer_bytes",
        "Bytes that these layers take on disk.",
        lambda seen: _one(seen.now.layer_bytes),
    ),
    DaemonMetric(
        "gauge",
        "crib_image_worker_requests",
        "Pulls and imports that the image worker is at.",
        lambda seen: _one(seen.now.worker.requests),
    ),
    DaemonMetric(
        "counter",
        "crib_image_worker_starts_total",
        "Processes that were started to read images.",
        lambda seen: _one(seen.now.worker.starts),
    ),
    DaemonMetric(
        "counter",
        "crib_image_worker_deaths_total",
        "Of these, those that went away unasked.",
        lambda seen: _one(seen.now.worker.deaths),
    ),
    DaemonMetric(
        "histogram",
        "crib_network_operation_duration_seconds",
        "What pods' networks were asked for: attach, detach, resume, check, repair, sweep.",
        lambda seen: seen.sources.node.figures.network.durations.series,
        ("operation",),
    ),
    DaemonMetric(
        "counter",
        "crib_network_operation_failures_total",
        "Of these, those that failed.",
        lambda seen: seen.sources.node.figures.network.failures.counts,
        ("operation",),
    ),
    DaemonMetric(
        "histogram",
        "crib_cni_plugin_duration_seconds",
        "Runs of CNI plugins.",
        lambda seen: seen.sources.node.network_programs.durations.series,
        ("plugin", "command"),
    ),
    DaemonMetric(
        "counter",
        "crib_cni_plugin_failures_total",
        "Runs of CNI plugins that failed.",
        lambda seen: seen.sources.node.network_programs.failures.counts,
        ("plugin", "command"),
    ),
    DaemonMetric(
        "counter",
        "crib_streams_total",
        "Requests for streams with a good token, by kind: exec, attach, portforward.",
        lambda seen: seen.sources.streams.counts,
        ("kind",),
    ),
    DaemonMetric(
        "gauge",
        "crib_stream_connections",
        "Connections of clients of streams.",
        lambda seen: _one(seen.sources.connections()),
    ),
    DaemonMetric(
        "counter",
        "crib_events_total",
        "Events of pods and containers, by type: created, started, stopped, deleted.",
        lambda seen: seen.sources.node.events.published.counts,
        ("type",),
    ),
    DaemonMetric(
        "gauge",
        "crib_event_subscribers",
        "Readers of events.",
        lambda seen: _one(seen.now.subscribers),
    ),
    DaemonMetric(
        "counter",
        "crib_event_subscribers_cut_off_total",
        "Readers of events that were cut off because they lagged too far behind.",
        lambda seen: _one(seen.sources.node.events.cut_off),
    ),
    DaemonMetric(
        "histogram",
        "crib_recovery_duration_seconds",
        "What was recovered after the daemon's start, by kind: container, pod, network, sweep.",
        lambda seen: seen.sources.node.figures.recoveries.durations.series,
        ("kind",),
    ),
    DaemonMetric(
        "counter",
        "crib_recovery_failures_total",
        "Of these, those that failed or took too long.",
        lambda seen: seen.sources.node.figures.recoveries.failures.counts,
        ("kind",),
    ),
    DaemonMetric(
        "counter",
        "crib_teardown_failures_total",
        "Teardowns of which a step failed: stop (of a pod), pod, container.",
        lambda seen: seen.sources.node.figures.teardown_failures.counts,
        ("what",),
    ),
    DaemonMetric(
        "gauge",
        "crib_teardowns_pending",
        "Objects that could not be taken away, and are tried again.",
        lambda seen: _one(seen.now.left),
    ),
    DaemonMetric(
        "counter",
        "crib_programs_started_total",
        "Programs that the daemon started, by file name.",
        lambda seen: _by(seen.now.vitals.programs),
        ("program",),
    ),
    DaemonMetric(
        "gauge",
        "crib_thread_work",
        "Blocking work under way in threads, by class; `killed` are programs that SIGKILL did not end.",
        lambda seen: _many(one.kind for one in seen.now.vitals.waiting),
        ("class",),
    ),
    DaemonMetric(
        "gauge",
        "crib_thread_work_overdue",
        "Of these, what is past its limit: nobody waits for it any more.",
        lambda seen: _many(one.kind for one in seen.now.vitals.waiting if one.overdue),
        ("class",),
    ),
    DaemonMetric(
        "gauge",
        "crib_tasks",
        "Tasks of the event loop by kind: work (verbs), service (for the daemon's life), part (of either).",
        lambda seen: _by(seen.now.tasks),
        ("kind",),
    ),
    DaemonMetric(
        "counter",
        "crib_loop_stalls_total",
        "How often the event loop was blocked for 0.2 s or more.",
        lambda seen: _one(seen.now.vitals.lag.stalls),
    ),
    DaemonMetric(
        "counter",
        "crib_loop_stalled_seconds_total",
        "Seconds that it was blocked in these.",
        lambda seen: _one(seen.now.vitals.lag.seconds),
    ),
    DaemonMetric(
        "gauge",
        "crib_loop_longest_stall_seconds",
        "The longest of these.",
        lambda seen: _one(seen.now.vitals.lag.longest),
    ),
    DaemonMetric(
        "counter",
        "crib_spans_total",
        "Spans of traces by what became of them: exported, failed (the collector took none), dropped.",
        lambda seen: _by(seen.sources.spans()),
        ("outcome",),
    ),
    DaemonMetric(
        "counter",
        "crib_log_records_total",
        "Records of the daemon's own log.",
        lambda seen: seen.sources.log.records.counts,
        ("level",),
    ),
    DaemonMetric(
        "counter",
        "crib_log_bytes_total",
        "Bytes of the daemon's own log.",
        lambda seen: _one(seen.sources.log.bytes),
    ),
    *PLUGIN_FAMILIES,
    *VOLUME_FAMILIES,
    *DRIVER_FAMILIES,
)


PROCESS: tuple[tuple[str, str, str], ...] = (
    ("process_cpu_seconds_total", "counter", "User and system time of the daemon."),
    ("process_open_fds", "gauge", "Descriptors that the daemon has open."),
    ("process_max_fds", "gauge", "How many it may have."),
    ("process_resident_memory_bytes", "gauge", "Memory that it takes."),
    ("process_virtual_memory_bytes", "gauge", "Addresses that it has mapped."),
    ("process_start_time_seconds", "gauge", "When it was started, in seconds since the epoch."),
)
"""Of the process as prometheus_client reads it from procfs, under the names that every dashboard knows."""


def read(sources: Sources) -> Taken:
    """All of it at this moment, to be turned into text elsewhere. To be called on the loop."""
    reading = Seen(sources, sources.node.gauges())
    return [(family, _copied(family.read(reading))) for family in FAMILIES]


def _copied(values: Values | Series) -> Values | Series:
    return {  # type: ignore[return-value] # numbers or durations, never both
        labels: Durations(list(value.buckets), value.seconds) if isinstance(value, Durations) else value
        for labels, value in values.items()
    }
