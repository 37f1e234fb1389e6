"""crib's own Node service, why containers have ended."""

from __future__ import annotations

from crib.api.translate import checks, limits
from crib.engine.endings import WantedEnd
from crib.engine.why import ToldEnd
from crib.model.ends import ContainerEnd, OomKill, StopRequest
from crib.stubs.node.v1 import node_pb2 as pb


def decode_explain(message: pb.ExplainEndRequest) -> WantedEnd:
    return WantedEnd(
        checks.short(message.target, limits.MAX_REFERENCE, "target"),
        checks.name(message.container, "container", required=False),
    )


def encode_told(told: ToldEnd) -> pb.ContainerEnd:
    record, end = told.record, told.end
    if end is not None:
        answer = _end(end)
    else:
        assert record is not None
        answer = pb.ContainerEnd(
            container_id=record.id,
            pod_sandbox_id=record.sandbox_id,
            name=record.config.name,
            attempt=record.config.attempt,
            exit_code=record.exit_code,
            started_at=record.started_at,
            finished_at=record.finished_at,
            reason=record.reason,
            message=record.message,
        )
    answer.pod = told.pod
    answer.state = "removed" if record is None else record.state.value
    return answer


def _end(end: ContainerEnd) -> pb.ContainerEnd:
    return pb.ContainerEnd(
        container_id=end.id,
        pod_sandbox_id=end.sandbox_id,
        name=end.name,
        attempt=end.attempt,
        cause=end.cause.value,
        exit_code=end.exit_code,
        signal=end.signal,
        started_at=end.started_at,
        finished_at=end.finished_at,
        reason=end.reason,
        message=end.message,
        pod_problem=end.pod_problem,
        stop=None if end.stop is None else _order(end.stop),
        oom=None if end.oom is None else _oom(end.oom),
        removed_at=end.removed_at,
        removal=None if end.removed_by is None else _order(end.removed_by),
    )


def _order(order: StopRequest) -> pb.StopRequest:
    return pb.StopRequest(
        call=order.verb,
        caller=str(order.caller),
        agent=order.caller.agent,
        request_id=order.caller.request,
        at=order.at,
        grace_seconds=order.grace,
        signal=order.signal,
        killed=order.killed,
        reason=order.reason,
    )


def _oom(kill: OomKill) -> pb.OomKill:
    return pb.OomKill(
        level=kill.level.value,
        cgroup=kill.cgroup,
        limit_bytes=kill.limit or 0,
        pid=kill.pid,
        process=kill.process,
        process_bytes=kill.memory,
        logged=kill.is_logged,
    )
