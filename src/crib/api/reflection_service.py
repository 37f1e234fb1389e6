"""Server reflection: a client such as grpcurl asks which services and messages there are.

The messages of v1 are those of v1alpha under another name, and clients try v1 first. Nothing is imported
before somebody asks, as few ever do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_METHODS = frozenset(f"/{name}/ServerReflectionInfo" for name in NAMES)


if TYPE_CHECKING:  # generic for type checkers only
    Handlers = grpc.GenericRpcHandler[Any, Any]
else:
    Handlers = grpc.GenericRpcHandler


class Reflection(Handlers):
    """To be registered last: grpc asks one after the other, and the CRI's calls are not to wait."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services
        self._handler: grpc.RpcMethodHandler[Any, Any] | None = None

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method not in _METHODS:
            return None
        if self._handler is None:
            self._handler = _made(self._services)
        return self._handler


def _made(services: Sequence[str]) -> grpc.RpcMethodHandler[Any, Any]:
    from grpc_reflection.v1alpha import reflection
    from grpc_reflection.v1alpha import reflection_pb2 as pb

    aio: Any = vars(reflection)["aio"]  # whose types the stubs do not have
    described = (*services, NAMES[1])  # no message here is of v1
    return grpc.stream_stream_rpc_method_handler(
        aio.ReflectionServicer(described).ServerReflectionInfo,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
