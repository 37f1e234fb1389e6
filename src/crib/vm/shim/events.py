"""Events that the shim sends to whoever started it: at TTRPC_ADDRESS, as containerd's shims do.

One kind is sent, which no call tells: that the guest's kernel killed in a container for lack of memory.
"""

from __future__ import annotations

import asyncio
import logging
import time

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from crib.stubs.shim.events_pb2 import TaskOOM
from crib.stubs.shim.events_service_pb2 import ForwardRequest
from crib.stubs.shim.types_pb2 import Envelope
from crib.stubs.vm import guest_pb2 as guest
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import PeerLost, TtrpcError
from crib.vm.shim.agent import AgentClient

_log = logging.getLogger(__name__)

SERVICE = "containerd.services.events.ttrpc.v1.Events"
OOM_TOPIC = "/tasks/oom"
SEND_TIME = 5.0
"""Seconds for one event."""
TRIES = 5
_PAUSE = 1.0
"""Seconds between two tries: whoever takes events may be about to start again."""


class Publisher:
    """Sends events. Without an address it sends none."""

    def __init__(self, address: str, namespace: str, keeper: TaskKeeper) -> None:
        self._address = address.removeprefix("unix://")
        self._namespace = namespace
        self._keeper = keeper

    async def out_of_memory(self, container: str) -> None:
        """Returns when it is sent, or was tried once; then it is tried again later."""
        event = TaskOOM(container_id=container)
        stamp = Timestamp()
        stamp.FromNanoseconds(time.time_ns())
        envelope = Envelope(
            timestamp=stamp,
            namespace=self._namespace,
            topic=OOM_TOPIC,
            event=AnyMessage(type_url=TaskOOM.DESCRIPTOR.full_name, value=event.SerializeToString()),
        )
        payload = ForwardRequest(envelope=envelope).SerializeToString()
        if self._address and not await self._sent(payload):
            self._keeper.part("sending an event again", self._again(payload), container)

    async def _again(self, payload: bytes) -> None:
        for _ in range(TRIES - 1):
            await asyncio.sleep(_PAUSE)
            if await self._sent(payload):
                return
        _log.warning("an event was not taken at %s", self._address)

    async def _sent(self, payload: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SEND_TIME):
                _, carrier = await loop.create_unix_connection(SocketCarrier, self._address)
                client = TtrpcClient(carrier)
                try:
                    await client.call(SERVICE, "Forward", payload, SEND_TIME)
                finally:
                    client.close()
        except (TtrpcError, OSError) as error:
            _log.debug("an event was not taken at %s: %s", self._address, error)
            return False
        return True


class GuestEvents:
    """What happens in the guest without being asked for, told on."""

    def __init__(self, agent: AgentClient, publisher: Publisher) -> None:
        self._agent = agent
        self._publisher = publisher
        self._telling = asyncio.Lock()

    async def follow(self) -> None:
        """As long as there is a guest."""
        while True:
            generation = self._agent.generation
            try:
                await self._follow()
            except TtrpcError as error:
                _log.debug("the guest's events: %s", error)
            try:
                await self._agent.next_generation(generation)
            except PeerLost:
                return

    async def told(self) -> None:
        """Returns when all that the guest has said until now is told on."""
        async with self._telling:
            pass

    async def _follow(self) -> None:
        cursor = 0
        while True:
            request = guest.EventsRequest(cursor=cursor)
            said = await self._agent.ask("Events", request, guest.EventsResponse, None)
            cursor = said.cursor
            # Taken without a pause after the answer: whoever hears of an end after it finds it taken.
            async with self._telling:
                for event in said.events:
                    if event.HasField("oom") and event.oom.container_id:
                        await self._publisher.out_of_memory(event.oom.container_id)
                    elif event.HasField("oom"):
                        _log.warning("the guest has no memory left: its kernel killed outside of containers")
