"""crib's own Node service, on what is under way: messages of crib.v1 to values and back."""

from __future__ import annotations

from collections.abc import Iterable

from crib.api.translate import checks, limits
from crib.engine.abandon import UnderWay
from crib.stubs.node.v1 import node_pb2 as pb

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
