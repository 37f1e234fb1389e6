"""A plugin that runs and the runtime that it is connected to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from crib import nri
from crib.tasks.groups import Beside
from tests.fakes.nri_runtime import BOUND, FakeNriRuntime, JoinedPlugin

IDENTITY = nri.PluginIdentity("pin", "10")


@contextlib.asynccontextmanager
async def running_plugin(
    plugin: nri.NodePlugin, path: Path, *, reconnect: bool = False
) -> AsyncIterator[tuple[FakeNriRuntime, asyncio.Task[None]]]:
    async with asyncio.timeout(BOUND), Beside() as beside:
        runtime = FakeNriRuntime(beside)
        async with await runtime.listen(path / "nri.sock"):
            options = nri.PluginOptions(IDENTITY, str(path / "nri.sock"), reconnect=reconnect)
            serving = beside.start("plugin", nri.serve(plugin, options))
            yield runtime, serving
            serving.cancel()
            await asyncio.wait((serving,))


@contextlib.asynccontextmanager
async def joined(plugin: nri.NodePlugin, path: Path, config: str = "") -> AsyncIterator[JoinedPlugin]:
    """Registered and configured."""
    async with running_plugin(plugin, path) as (runtime, _):
        found = await runtime.joined()
        await found.configure(config)
        yield found
