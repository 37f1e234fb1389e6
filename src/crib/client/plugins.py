"""Node plugins (NRI) of a node. Raises NotOffered from another runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import ListPluginsRequest, ListPluginsResponse

if TYPE_CHECKING:
    from crib.client.connection import Connection


async def plugins(connection: Connection) -> ListPluginsResponse:
    """All: those that take part first, in the order in which they are asked."""
    return await connection.call(connection.node.ListPlugins, ListPluginsRequest())
