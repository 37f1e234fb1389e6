"""One connection of a plugin to its runtime, from the registration to the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Self

from crib.nri.calls import PluginService
from crib.nri.identity import NriError, PluginIdentity
from crib.nri.plugin import RUNTIME_SERVICE, NodePlugin
from crib.stubs.nri.v1alpha1 import api_pb2 as messages
from crib.ttrpc.carriers import FrameCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import TtrpcError
from crib.ttrpc.messages import ServiceClient
from crib.ttrpc.mux import Mux
from crib.ttrpc.server import TtrpcServer
from crib.wire import mux

REGISTRATION_SECONDS = 10.0
"""For the runtime to register and configure the plugin; it gives the plugin five by itself."""
NRI_VERSION = "v0.12.0"
"""Of the interface that this library speaks."""
_log = logging.getLogger(__name__)


async def hold_session(plugin: NodePlugin, identity: PluginIdentity, carrier: FrameCarrier) -> None:
    """Register the plugin and serve it until the connection is gone.

    Returns if the runtime has said that it ends. NriError if the plugin was not accepted, or the runtime is
    gone.
    """
    async with _Tasks() as tasks:
        try:
            await _held(plugin, identity, Mux(carrier, (mux.PLUGIN_SERVICE, mux.RUNTIME_SERVICE)), tasks)
        finally:
            carrier.close()


async def _held(plugin: NodePlugin, identity: PluginIdentity, both: Mux, tasks: _Tasks) -> None:
    client = TtrpcClient(both.carrier(mux.RUNTIME_SERVICE))
    runtime = ServiceClient(client, RUNTIME_SERVICE)
    calls = PluginService(plugin, runtime)
    TtrpcServer(both.carrier(mux.PLUGIN_SERVICE), calls.services, tasks.start)
    request = messages.RegisterPluginRequest(
        plugin_name=identity.name, plugin_idx=identity.index, NRI_version=NRI_VERSION
    )
    try:
        await runtime.call("RegisterPlugin", request, messages.Empty, REGISTRATION_SECONDS)
    except TtrpcError as error:
        raise NriError(f"the runtime did not register {identity}: {error}") from error
    _log.info("registered as %s", identity)
    gone = tasks.start("gone", client.gone())
    await asyncio.wait(
        (gone, calls.configured), timeout=REGISTRATION_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    if not calls.configured.done():
        raise NriError(
            f"the runtime did not configure {identity}" + (f": {gone.result()}" if gone.done() else "")
        )
    if (failure := calls.configured.result()) is not None:
        raise NriError(f"{identity} failed to be configured: {failure}") from failure
    reason = await gone
    if not calls.was_shut_down:
        raise NriError(f"the runtime is gone: {reason}")


class _Tasks:
    """Those of one connection: they end with it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` in a task of its own."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
