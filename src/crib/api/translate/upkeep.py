"""crib's own Node service, looking after the node: checks, wipes, work in progress, giving up on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crib.api.translate import checks, limits
from crib.engine.abandon import UnderWay
from crib.model.finding import WIPE_KINDS, Finding, Wiped, WipeOrder
from crib.stubs.node.v1 import node_pb2 as pb


@dataclass(frozen=True, slots=True)
class NodeCheckOrder:
    """What a check should do."""

    repair: bool
    quick: bool


def decode_check(message: pb.CheckNodeRequest) -> NodeCheckOrder:
    return NodeCheckOrder(message.repair, message.quick)


def decode_wipe(message: pb.WipeRequest) -> WipeOrder:
    kinds = tuple(checks.at_most(message.kinds, len(WIPE_KINDS), "kinds"))
    if not kinds:
        checks.refuse("kinds", f"is empty; there are {', '.join(WIPE_KINDS)}")
    for number, kind in enumerate(kinds):
        if kind not in WIPE_KINDS:
            known = ", ".join(WIPE_KINDS)
            checks.refuse(f"kinds[{number}]", f"is {kind[:100]!r}, and must be one of {known}")
    return WipeOrder(frozenset(kinds), dry=message.dry_run, force=message.force)


def encode_finding(found: Finding) -> pb.Finding:
    return pb.Finding(
        area=found.area,
        subject=found.subject,
        problem=found.problem,
        note=found.is_note,
        mend=found.mend,
        mended=found.mended,
        mend_error=found.mend_error,
    )


def encode_wiped(wiped: Wiped) -> pb.Wiped:
    return pb.Wiped(kind=wiped.kind, name=wiped.name, problem=wiped.problem)


def json_line(message: pb.Finding | pb.Wiped) -> str:
    """The message as one line of JSON, by protobuf's own mapping, without empty fields."""
    from google.protobuf import json_format  # for these lines only

    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


MAX_SHOWN = 4096
"""Characters of a name or stage that are shown: an archive's path may be in it."""


def encode_work(found: Iterable[UnderWay]) -> pb.ListWorkResponse:
    return pb.ListWorkResponse(
        work=[
            pb.Work(
                name=one.name[:MAX_SHOWN],
                id=one.object,
                title=one.title,
                stage=one.stage[:MAX_SHOWN],
                request_id=one.request,
                age_ns=int(one.seconds * 1e9),
                callers=one.callers,
            )
            for one in found
        ]
    )


def decode_abandon(message: pb.AbandonRequest) -> tuple[str, str]:
    """The id, and the reason."""
    reason = checks.short(message.reason, limits.MAX_VALUE, "reason")
    return checks.identifier(message.id, "id"), reason
