"""Calls of the guest's agent, with messages: the task service of shims, and the guest's own
(proto/vm/guest.proto).
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from crib.stubs.vm import guest_pb2 as guest
from crib.ttrpc.errors import CallFailed, PeerLost
from crib.vm.shim.link import AgentLink
from crib.wire.rpc_codes import Code

TASKS = "containerd.task.v3.Task"
GUEST = "crib.vm.v1.Guest"
CALL_TIME = 120.0
"""Seconds for a call that waits for nothing but the guest: an emulated one on a busy host is slow."""

Answer = TypeVar("Answer", bound=Message)


class AgentClient:
    """Of one VM. A call may end with CallFailed in the agent's words, or PeerLost: it has gone."""

    def __init__(self, link: AgentLink) -> None:
        self._link = link

    @property
    def generation(self) -> int:
        """Which of the guest's agents is there; containers are its own."""
        return self._link.generation

    async def next_generation(self, after: int) -> int:
        """Returns when an agent of a later generation is there. PeerLost when there will be none."""
        await self._link.client(after)
        return self._link.generation

    async def relay(
        self, service: str, method: str, payload: bytes, limit: float | None = CALL_TIME
    ) -> bytes:
        """A call as it came. `limit` in seconds; None: as long as the agent lives."""
        if self._link.why_lost:
            raise PeerLost(self._link.why_lost)
        client = await self._link.client()
        return await client.call(service, method, payload, limit)

    async def task(
        self, method: str, question: Message, answer: type[Answer], limit: float | None = CALL_TIME
    ) -> Answer:
        """A call of the task service."""
        return _read(answer, await self.relay(TASKS, method, question.SerializeToString(), limit))

    async def ask(
        self, method: str, question: Message, answer: type[Answer], limit: float | None = CALL_TIME
    ) -> Answer:
        """A call of the guest's own service."""
        return _read(answer, await self.relay(GUEST, method, question.SerializeToString(), limit))

    async def read(self, request: guest.ReadRequest) -> guest.ReadResponse:
        """Output; waits for some."""
        return await self.ask("Read", request, guest.ReadResponse, None)

    async def write(self, request: guest.WriteRequest) -> int:
        """Input; waits until some of it is taken: how many bytes."""
        return (await self.ask("Write", request, guest.WriteResponse, None)).accepted


def _read(kind: type[Answer], data: bytes) -> Answer:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise CallFailed(
            Code.INTERNAL, f"the agent's answer is no {kind.DESCRIPTOR.full_name}: {error}"
        ) from None
