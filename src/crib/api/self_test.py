"""The daemon calls itself through its own socket, as a client would: what answers there is well."""

from __future__ import annotations

import asyncio

import grpc
from grpc import aio

from crib.stubs.runtime.v1 import api_pb2 as pb

_METHOD = "/runtime.v1.RuntimeService/Version"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own each time: accepting one is tried too
    ("grpc.primary_user_agent", "cribd-self-test"),  # a caller of its own among those that take turns
)


async def answer_problem(socket: str, limit: float) -> str:
    """Why Version was not answered within `limit` seconds; empty when it was.

    A refusal because of too many calls at once is an answer as well: an end would not make them fewer.
    """
    async with aio.insecure_channel(f"unix:{socket}", _OPTIONS) as channel:
        try:
            async with asyncio.timeout(limit):
                await channel.unary_unary(
                    _METHOD, pb.VersionRequest.SerializeToString, pb.VersionResponse.FromString
                )(pb.VersionRequest())
        except TimeoutError:
            return f"no answer within {limit:.1f} s"
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                return f"{error.code().name}: {error.details()}"
    return ""
