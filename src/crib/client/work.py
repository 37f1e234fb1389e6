"""What is under way in the runtime, and giving up on it.

Only crib itself can tell: every call raises NotOffered from a runtime without crib's Node service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import AbandonRequest, ListWorkRequest, Work

if TYPE_CHECKING:
    from crib.client.connection import Connection


async def under_way(connection: Connection) -> list[Work]:
    """Verbs that have not ended, each with its stage, the oldest first; then what threads wait for."""
    reply = await connection.call(connection.node.ListWork, ListWorkRequest())
    return list(reply.work)


async def abandon(connection: Connection, identifier: str, reason: str = "") -> list[str]:
    """Give up on a pod sandbox with its containers, or on a container; says which verbs that ended.

    It is shown as NOT_READY or UNKNOWN, its name is free, and it is taken away in the background. NotFound
    when neither a sandbox nor a container has that id.
    """
    request = AbandonRequest(id=identifier, reason=reason)
    reply = await connection.call(connection.node.Abandon, request)
    return list(reply.abandoned)
