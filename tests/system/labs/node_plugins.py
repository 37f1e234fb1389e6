"""Node plugins of tests that take part in what a real daemon does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crib.client.plugins import plugins
from crib.stubs.node.v1 import node_pb2
from tests.plugin_lab import LabPlugin
from tests.system.labs.daemon import Cri, until


async def listed(cri: Cri, state: str = "ready") -> list[node_pb2.NodePlugin]:
    """The plugins in this state."""
    return [one for one in (await plugins(cri.connection)).plugins if one.state == state]


async def so_many_take_part(cri: Cri, count: int) -> None:
    """Returns when they do."""

    async def are_ready() -> bool:
        return len(await listed(cri)) == count

    await until(are_ready)


async def takes_part(cri: Cri, name: str) -> None:
    """Returns when the plugin of this name does."""

    async def is_ready() -> bool:
        return name in [one.name for one in await listed(cri)]

    await until(is_ready)


async def join(cri: Cri, plugin: LabPlugin, count: int = 1) -> None:
    """Have it take part; with it so many do."""
    await plugin.join(str(cri.cribd.plugin_socket))
    await so_many_take_part(cri, count)


@asynccontextmanager
async def taking_part(cri: Cri, *some: LabPlugin) -> AsyncIterator[None]:
    """These do, and nobody else, until the end."""
    try:
        for count, plugin in enumerate(some, start=1):
            await join(cri, plugin, count)
        yield
    finally:
        for plugin in some:
            await plugin.close()
        await so_many_take_part(cri, 0)
