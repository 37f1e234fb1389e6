"""One call of a driver over its unix socket, through a connection of its own.

A connection for each call costs about a millisecond, and none is left that a restart of the driver breaks.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from crib.backends.failures import LONGEST_WORDS

A = TypeVar("A", bound=Message)

MAX_PATH = 107
"""Bytes of a socket's path (unix(7), sun_path less its NUL)."""
MOST_BYTES = 4 << 20
"""Of one message, either way."""
MOST_HEADER_BYTES = 32 << 10
"""Of the headers of an answer, the text of an error among them."""

_OPTIONS = (
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_metadata_size", MOST_HEADER_BYTES),
    ("grpc.enable_retries", 0),  # what is repeated is decided in `driver`
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a failed connection would make the next call wait
    ("grpc.default_authority", "localhost"),
)


@dataclass(frozen=True, slots=True)
class DriverCall(Generic[A]):
    """A call of the interface."""

    service: str
    name: str
    answer: type[A]

    @property
    def path(self) -> str:
        return f"/csi.v1.{self.service}/{self.name}"


BAD_ANSWER = "BAD_ANSWER"
"""Beside gRPC's own codes: it answered, and with something else than the interface says."""


class DriverFailed(Exception):
    """A call without a good answer."""

    def __init__(self, code: str, text: str) -> None:
        """`code`: the name of a status, or BAD_ANSWER."""
        super().__init__(text)
        self.code = code
        self.text = text[:LONGEST_WORDS].strip() or "it said nothing"


@functools.cache
def _hold_grpc() -> None:
    """Have gRPC keep its thread: it joins it on the loop each time that the last channel is closed."""
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]  # grpc-stubs does not know it


async def call(socket: str, one: DriverCall[A], request: Message, limit: float) -> A:
    """What the driver behind `socket` answers within `limit` seconds. DriverFailed."""
    if len(os.fsencode(socket)) > MAX_PATH:
        raise DriverFailed(
            "FAILED_PRECONDITION", f"the path of its socket, {socket}, has more than {MAX_PATH} bytes"
        )
    body = request.SerializeToString()
    if len(body) > MOST_BYTES:
        raise DriverFailed("INVALID_ARGUMENT", f"the request has {len(body)} bytes, of at most {MOST_BYTES}")
    _hold_grpc()
    async with grpc.aio.insecure_channel(f"unix:{quote(socket)}", options=_OPTIONS) as channel:
        calling = channel.unary_unary(one.path, None, None)(body, timeout=limit)
        try:
            answer = await calling
        except grpc.aio.AioRpcError as error:
            raise DriverFailed(error.code().name, error.details() or "") from None
    try:
        return one.answer.FromString(answer)
    except DecodeError as error:
        raise DriverFailed(BAD_ANSWER, f"its answer is no {one.answer.__name__}: {error}") from None
