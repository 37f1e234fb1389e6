"""The same with messages of protobuf for bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import CallFailed
from crib.ttrpc.server import Handler, ServedCall
from crib.wire.rpc_codes import Code

Question = TypeVar("Question", bound=Message)
Answer = TypeVar("Answer", bound=Message)


class ServiceClient:
    """One service of a peer, by its name as the wire has it."""

    def __init__(self, client: TtrpcClient, service: str) -> None:
        self._client = client
        self._service = service

    async def call(self, method: str, question: Message, answer: type[Answer], limit: float | None) -> Answer:
        """The answer to `question`, as `TtrpcClient.call` gets it. CallFailed if it cannot be read."""
        data = await self._client.call(self._service, method, question.SerializeToString(), limit)
        return _read(answer, data, Code.INTERNAL, f"the answer of {self._service}/{method}")


def typed(question: type[Question], answer: Callable[[Question], Awaitable[Message]]) -> Handler:
    """A handler that takes a message and answers with one."""

    async def handle(call: ServedCall) -> bytes:
        name = f"the request of {call.service}/{call.method}"
        asked = _read(question, call.payload, Code.INVALID_ARGUMENT, name)
        return (await answer(asked)).SerializeToString()

    return handle


def _read(kind: type[Answer], data: bytes, code: Code, what: str) -> Answer:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise CallFailed(code, f"{what} is no {kind.DESCRIPTOR.full_name}: {error}") from None
