"""crib's own Node service, what was: timelines of pods, and the node's events."""

from __future__ import annotations

from crib.api.translate import checks, limits
from crib.engine.history import Batch, EventFilter
from crib.engine.timeline import OK, RUNNING, PodStages
from crib.model.events import EventKind, NodeEvent, Stage
from crib.stubs.node.v1 import node_pb2 as pb


def decode_timeline(message: pb.TimelineRequest) -> str:
    return checks.identifier(message.pod, "pod")


def encode_timeline(found: PodStages) -> pb.TimelineResponse:
    return pb.TimelineResponse(
        pod_sandbox_id=found.sandbox,
        pod=found.timeline.pod,
        stages=map(_stage, found.timeline.stages),
        dropped=found.timeline.dropped,
    )


def _stage(stage: Stage) -> pb.Stage:
    return pb.Stage(
        name=stage.name,
        subject=stage.subject,
        started_at=stage.started_at,
        duration_ns=stage.duration,
        outcome=stage.outcome if stage.outcome in (OK, RUNNING) else f"failed: {stage.outcome}",
        parent=stage.parent,
        program=stage.program,
        program_ns=stage.program_time,
        program_cpu_ns=stage.program_cpu,
    )


def decode_events(message: pb.EventsRequest) -> EventFilter:
    if message.after and message.since:
        checks.refuse("since", "cannot be given beside after")
    if message.since < 0:
        checks.refuse("since", f"is {message.since}, and must be nanoseconds since the epoch")
    return EventFilter(
        # A journal's numbers are of 63 bits: what is beyond them is beyond its end as well.
        after=min(message.after, (1 << 63) - 1),
        since=message.since,
        follow=message.follow,
        kinds=frozenset(
            _kind(kind, f"kinds[{number}]")
            for number, kind in enumerate(checks.at_most(message.kinds, len(EventKind), "kinds"))
        ),
        namespace=checks.short(message.namespace, limits.MAX_LINE, "namespace"),
        pod=checks.short(message.pod, limits.MAX_LINE, "pod"),
        container=checks.short(message.container, limits.MAX_LINE, "container"),
    )


def _kind(text: str, field: str) -> EventKind:
    try:
        return EventKind(text)
    except ValueError:
        checks.refuse(field, f"is {text[:100]!r}, and must be one of {', '.join(EventKind)}")


def encode_events(batch: Batch) -> pb.EventsResponse:
    answer = pb.EventsResponse(events=map(_event, batch.events), cursor=batch.cursor)
    if batch.cut is not None:
        answer.cut.after = batch.cut.after
        answer.cut.resumes_at = batch.cut.resumes_at
        answer.cut.resumes_at_time = batch.cut.at
    return answer


def _event(event: NodeEvent) -> pb.Event:
    return pb.Event(
        number=event.number,
        at=event.at,
        kind=event.kind,
        action=event.action,
        id=event.subject,
        pod_sandbox_id=event.pod_id,
        pod=event.pod,
        name=event.name,
        message=event.text,
        exit_code=event.exit_code,
    )
