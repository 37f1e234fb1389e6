"""A runtime that speaks NRI, in memory: it does with a plugin what a test tells it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from crib.stubs.nri.v1alpha1 import api_pb2 as messages
from crib.tasks.groups import Beside
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import CallFailed
from crib.ttrpc.messages import ServiceClient, typed
from crib.ttrpc.mux import Mux
from crib.ttrpc.server import TtrpcServer
from crib.wire import mux
from crib.wire.rpc_codes import Code

BOUND = 60.0
Answer = TypeVar("Answer", bound=Message)


@dataclass
class JoinedPlugin:
    """A plugin that is connected, and what it has sent."""

    carrier: SocketCarrier
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    registration: messages.RegisterPluginRequest | None = None
    updates: list[messages.UpdateContainersRequest] = field(default_factory=list)
    client: TtrpcClient | None = None

    async def ask(self, call: str, question: Message, answer: type[Answer], limit: float = BOUND) -> Answer:
        assert self.client is not None
        service = ServiceClient(self.client, "nri.pkg.api.v1alpha1.Plugin")
        return await service.call(call, question, answer, limit)

    async def configure(self, config: str = "") -> messages.ConfigureResponse:
        await self.registered.wait()
        request = messages.ConfigureRequest(
            config=config,
            runtime_name="fake",
            runtime_version="1.0",
            NRI_version="v0.12.0",
            registration_timeout=5000,
            request_timeout=2500,
        )
        return await self.ask("Configure", request, messages.ConfigureResponse)

    async def synchronize(
        self, pods: list[messages.PodSandbox], containers: list[messages.Container], *, more: bool = False
    ) -> messages.SynchronizeResponse:
        request = messages.SynchronizeRequest(pods=pods, containers=containers, more=more)
        return await self.ask("Synchronize", request, messages.SynchronizeResponse)

    async def shut_down(self) -> None:
        await self.ask("Shutdown", messages.Empty(), messages.Empty)
        self.carrier.close()

    async def gone(self) -> None:
        assert self.client is not None
        await self.client.gone()


class FakeNriRuntime:
    """Begin with `joined`, or `listen` and a plugin that connects."""

    def __init__(self, beside: Beside) -> None:
        self._beside = beside
        self._plugins: asyncio.Queue[JoinedPlugin] = asyncio.Queue()
        self.refuses = ""
        """Plugins that register are told this."""
        self.failed: list[messages.ContainerUpdate] = []
        """What the runtime says that it could not update."""

    async def listen(self, path: Path) -> asyncio.Server:
        return await asyncio.get_running_loop().create_unix_server(lambda: _Accepted(self), str(path))

    def accepted(self, carrier: SocketCarrier) -> None:
        self._plugins.put_nowait(self.take(carrier))

    async def joined(self) -> JoinedPlugin:
        """The next plugin that connects."""
        return await self._plugins.get()

    def take(self, carrier: SocketCarrier) -> JoinedPlugin:
        """Be the runtime at the other end of this connection."""
        plugin = JoinedPlugin(carrier)
        both = Mux(carrier, (mux.PLUGIN_SERVICE, mux.RUNTIME_SERVICE))
        plugin.client = TtrpcClient(both.carrier(mux.PLUGIN_SERVICE))

        async def register(request: messages.RegisterPluginRequest) -> messages.Empty:
            if self.refuses:
                raise CallFailed(Code.UNKNOWN, self.refuses)
            plugin.registration = request
            plugin.registered.set()
            return messages.Empty()

        async def update(request: messages.UpdateContainersRequest) -> messages.UpdateContainersResponse:
            plugin.updates.append(request)
            return messages.UpdateContainersResponse(failed=self.failed)

        handlers = {
            "RegisterPlugin": typed(messages.RegisterPluginRequest, register),
            "UpdateContainers": typed(messages.UpdateContainersRequest, update),
        }
        services = {"nri.pkg.api.v1alpha1.Runtime": handlers}
        TtrpcServer(both.carrier(mux.RUNTIME_SERVICE), services, self._beside.start)
        return plugin


class _Accepted(SocketCarrier):
    def __init__(self, runtime: FakeNriRuntime) -> None:
        super().__init__()
        self._runtime = runtime

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._runtime.accepted(self)
