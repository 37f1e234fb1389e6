"""The configuration of a cribd: what holds, and reading it again. NotOffered from other runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import (
    ReloadConfigRequest,
    ReloadConfigResponse,
    ShowConfigRequest,
    ShowConfigResponse,
)

if TYPE_CHECKING:
    from crib.client.connection import Connection


async def show(connection: Connection) -> ShowConfigResponse:
    """The settings that hold, each with where it comes from."""
    return await connection.call(connection.node.ShowConfig, ShowConfigRequest())


async def reload(connection: Connection) -> ReloadConfigResponse:
    """Have the daemon read its configuration again. With `faults` in the answer nothing has changed."""
    return await connection.call(connection.node.ReloadConfig, ReloadConfigRequest())
