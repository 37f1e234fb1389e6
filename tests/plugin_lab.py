"""Node plugins of tests: they speak the real wire, in the test's own loop, and do what a test tells them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from crib.backends.nri.plugins import NriPlugins
from crib.model.container import ContainerState
from crib.model.ids import ContainerId, SandboxId
from crib.model.plugins import (
    ContainerUpdate,
    Eviction,
    FailedUpdate,
    ShownContainer,
    ShownNode,
    ShownPod,
)
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.messages import ServiceClient, typed
from crib.ttrpc.mux import Mux
from crib.ttrpc.server import ServedCall, TtrpcServer
from crib.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE
from tests.contract.records_samples import full_container, full_sandbox
from tests.fakes.stages import NoStages

PACKAGE = "nri.pkg.api.v1alpha1"
BOUND = 20.0
"""Seconds that anything awaited here may take: something hangs then, and the test fails."""
CALLS = [method.name for method in pb.DESCRIPTOR.services_by_name["Plugin"].methods]

ROOT = Path(__file__).parents[1]
INSTALLED = f"""\
#!{{python}}
import asyncio, os, socket, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "src")!r}]
from tests.plugin_lab import LabPlugin

async def main():
    plugin = LabPlugin(os.environ["NRI_PLUGIN_NAME"], os.environ["NRI_PLUGIN_IDX"])
    await plugin.over(socket.socket(fileno=int(os.environ["NRI_PLUGIN_SOCKET"])))
    await plugin.register()
    print("configured with", (await plugin.until_heard("Configure")).config, flush=True)
    await plugin.client.gone()

asyncio.run(main())
"""
"""Program of a plugin that is installed."""
Answering = Callable[[Any], Awaitable[Message]]
Begin = Callable[..., Awaitable[NriPlugins]]
"""Begins with the settings of the test, or with others."""
Join = Callable[..., Awaitable["LabPlugin"]]
"""Has a plugin take part."""
no_stage = NoStages()


def bounded() -> asyncio.Timeout:
    """Around whatever could hang."""
    return asyncio.timeout(BOUND)


def shown_pod(name: str = "web") -> ShownPod:
    """A pod with this name in its id."""
    record = full_sandbox()
    metadata = replace(record.config.metadata, name=name)
    return ShownPod(
        replace(record, id=SandboxId(f"pod-{name}"), config=replace(record.config, metadata=metadata))
    )


def shown_container(
    name: str = "web", state: ContainerState = ContainerState.RUNNING
) -> tuple[ShownPod, ShownContainer]:
    """A container `ctr-NAME` in the pod of that name."""
    pod = shown_pod(name)
    record = replace(full_container(), id=ContainerId(f"ctr-{name}"), sandbox_id=pod.record.id, state=state)
    return pod, ShownContainer(record)


@dataclass
class LabHost:
    """The verbs' side; see PluginHost."""

    node: ShownNode = field(default_factory=lambda: ShownNode((), ()))
    updates: list[ContainerUpdate] = field(default_factory=list)
    evictions: list[Eviction] = field(default_factory=list)
    failing: dict[ContainerId, str] = field(default_factory=dict)
    """Containers that cannot be updated, and why."""
    notes: dict[str, str] = field(default_factory=dict)
    """What is unusual now."""
    noted: list[tuple[str, str]] = field(default_factory=list)
    alones: int = 0
    is_alone: bool = False
    on_end: Callable[[], object] = lambda: None
    """Called at the end of `alone`, within."""
    busy: int = 0
    """How often `alone` is refused first."""

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[ShownNode]:
        from crib.model.errors import Unavailable

        if self.busy:
            self.busy -= 1
            raise Unavailable("something is being made")
        assert not self.is_alone
        self.alones += 1
        self.is_alone = True
        try:
            yield self.node
            self.on_end()
        finally:
            self.is_alone = False

    def note(self, subject: str, text: str) -> None:
        self.noted.append((subject, text))
        if text:
            self.notes[subject] = text
        else:
            self.notes.pop(subject, None)

    async def update(self, updates: Sequence[ContainerUpdate]) -> Sequence[FailedUpdate]:
        assert not self.is_alone
        self.updates += updates
        return [
            FailedUpdate(one, self.failing[one.container]) for one in updates if one.container in self.failing
        ]

    async def evict(self, evictions: Sequence[Eviction]) -> None:
        assert not self.is_alone
        self.evictions += evictions


class LabPlugin:
    """A plugin. `answers` may have a message or a function for each call; what has none is answered empty.

    A call in `lacks` is not there at all, as with a library that is older than the call.
    """

    def __init__(self, base: str = "lab", index: str = "10", events: int = 0) -> None:
        self.base, self.index = base, index
        self.answers: dict[str, Message | Answering] = {"Configure": pb.ConfigureResponse(events=events)}
        self.lacks: set[str] = set()
        self.raw: dict[str, bytes] = {}
        """Bytes of answers that are no messages."""
        self.heard: list[tuple[str, Any]] = []
        self.end: socket.socket
        self.client: TtrpcClient
        self._trunk: SocketCarrier
        self._keeper = TaskKeeper()
        self._news = asyncio.Event()

    async def connect(self, path: str) -> None:
        """To the socket; nothing is said yet."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        await asyncio.get_running_loop().sock_connect(end, path)
        await self.over(end)

    async def over(self, end: socket.socket) -> None:
        """A connected socket."""
        self.end = end.dup()  # asyncio closes its own
        _, self._trunk = await asyncio.get_running_loop().connect_accepted_socket(SocketCarrier, end)
        mux = Mux(self._trunk, (PLUGIN_SERVICE, RUNTIME_SERVICE))
        handlers = {name: self._handler(name) for name in CALLS if name not in self.lacks}
        TtrpcServer(mux.carrier(PLUGIN_SERVICE), {f"{PACKAGE}.Plugin": handlers}, self._keeper.start)
        self.client = TtrpcClient(mux.carrier(RUNTIME_SERVICE))
        self.runtime = ServiceClient(self.client, f"{PACKAGE}.Runtime")

    async def register(self) -> None:
        """Say who it is."""
        request = pb.RegisterPluginRequest(
            plugin_name=self.base, plugin_idx=self.index, NRI_version="v0.12.0"
        )
        await self.runtime.call("RegisterPlugin", request, pb.Empty, BOUND)

    async def join(self, path: str) -> None:
        """Connect, register, and hear of everything."""
        await self.connect(path)
        await self.register()
        await self.until_heard("Synchronize")

    async def until_heard(self, call: str, count: int = 1) -> Any:
        """The request of this call, when it has come so often."""
        async with bounded():
            while len(found := [request for name, request in self.heard if name == call]) < count:
                self._news.clear()
                await self._news.wait()
        return found[-1]

    async def update(self, request: pb.UpdateContainersRequest) -> pb.UpdateContainersResponse:
        """Ask for changes."""
        return await self.runtime.call("UpdateContainers", request, pb.UpdateContainersResponse, BOUND)

    def read_no_further(self) -> None:
        """As one that is stopped (SIGSTOP)."""
        self._trunk.pause()

    def send_raw(self, data: bytes) -> None:
        """Whatever it is."""
        self._trunk.put(data)

    async def gone(self) -> str:
        """Why its connection has ended."""
        async with bounded():
            return await self.client.gone()

    async def close(self) -> None:
        """End the connection."""
        self.end.close()
        self._trunk.abort("the test ends it")
        self._keeper.cancel()
        await self._keeper.close(0)

    @property
    def calls(self) -> list[str]:
        """What it was asked, without what every plugin is."""
        return [name for name, _ in self.heard if name not in ("Configure", "Synchronize")]

    def _handler(self, name: str) -> Any:
        asked = pb.DESCRIPTOR.services_by_name["Plugin"].methods_by_name[name]
        request: type[Message] = getattr(pb, asked.input_type.name)
        response: type[Message] = getattr(pb, asked.output_type.name)

        async def answer(message: Any) -> Message:
            self.heard.append((name, message))
            self._news.set()
            found = self.answers.get(name)
            if found is None:
                return pb.SynchronizeResponse(more=message.more) if name == "Synchronize" else response()
            return found if isinstance(found, Message) else await found(message)

        async def unreadable(call: ServedCall) -> bytes:
            return self.raw[name]

        return typed(request, answer) if name not in self.raw else unreadable


async def ready(plugins: Any, count: int = 1) -> None:
    """So many take part."""
    await until(lambda: sum(one.state == "ready" for one in plugins.statuses()) == count)


async def until(is_so: Callable[[], object]) -> None:
    """It is so; for what gives no notice when it changes."""
    async with bounded():
        while not is_so():  # noqa: ASYNC110  # nobody has an event for it
            await asyncio.sleep(0.001)
