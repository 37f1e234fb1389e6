"""What a plugin may call: its registration, and changes of containers that nobody asked it for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from crib.backends.nri.lives import Breach
from crib.backends.nri.orders import carried_out
from crib.backends.nri.plugin import Plugin
from crib.backends.nri.translate_answers import unasked_orders
from crib.ports.plugins import PluginHost, PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.ttrpc.errors import CallFailed
from crib.ttrpc.messages import typed
from crib.ttrpc.server import Handler
from crib.wire.rpc_codes import Code


class RuntimeCalls:
    """The service Runtime, for one plugin."""

    def __init__(self, plugin: Plugin, host: PluginHost) -> None:
        self._plugin = plugin
        self._host = host
        self._turn = asyncio.Lock()

    @property
    def methods(self) -> Mapping[str, Handler]:
        """By name."""
        return {
            "RegisterPlugin": typed(pb.RegisterPluginRequest, self._register),
            "UpdateContainers": typed(pb.UpdateContainersRequest, self._update),
        }

    async def _register(self, request: pb.RegisterPluginRequest) -> pb.Empty:
        try:
            self._plugin.register(request.plugin_idx, request.plugin_name, request.NRI_version)
        except (Breach, ValueError) as error:
            # Not before it has been told: the connection ends once what is unsent has gone.
            problem = f"its registration is refused: {error}"
            asyncio.get_running_loop().call_soon(self._plugin.drop, problem)
            raise CallFailed(Code.INVALID_ARGUMENT, f"the registration is refused: {error}") from error
        return pb.Empty()

    async def _update(self, request: pb.UpdateContainersRequest) -> pb.UpdateContainersResponse:
        async with self._turn:
            # One that calls while it is synchronized: nothing can be changed before that is over.
            await asyncio.wait([self._plugin.settled])
            if not self._plugin.is_ready:
                raise CallFailed(Code.FAILED_PRECONDITION, "the plugin takes no part")
            try:
                orders = unasked_orders(str(self._plugin), request)
            except PluginRefused as error:
                raise CallFailed(Code.INVALID_ARGUMENT, str(error)) from error
            failed = await carried_out(self._plugin, self._host, orders)
        return pb.UpdateContainersResponse(
            failed=(one for one in request.update if one.container_id in failed)
        )
