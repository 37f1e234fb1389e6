"""Server reflection: a client such as grpcurl asks which services and messages there are.

The messages of v1 are those of v1alpha under another name, and clients try v1 first. Nothing is imported
before somebody asks, as few ever do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from crib.rpc.call import GrpcCall
from crib.rpc.server import Method

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def reflection(services: Sequence[str]) -> Mapping[str, Method]:
    """Its methods, which describe these services."""
    described = (*services, NAMES[1])  # no message here is of v1
    made: list[Any] = []

    async def handle(call: GrpcCall) -> None:
        if not made:
            made.append(_servicer(described))
        async for answer in made[0].ServerReflectionInfo(_questions(call), None):
            await call.write(answer.SerializeToString())

    return {f"/{name}/ServerReflectionInfo": Method(handle) for name in NAMES}


def _servicer(services: Sequence[str]) -> Any:
    from grpc_reflection.v1alpha import reflection as made

    aio: Any = vars(made)["aio"]  # whose types the stubs do not have
    return aio.ReflectionServicer(services)


async def _questions(call: GrpcCall) -> AsyncIterator[Any]:
    from grpc_reflection.v1alpha import reflection_pb2 as pb

    while (message := await call.read()) is not None:
        yield pb.ServerReflectionRequest.FromString(message)
