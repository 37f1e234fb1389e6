"""Asking a server that is no runtime how it is: the gRPC health protocol (grpc.health.v1)."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crib.client.errors import from_rpc


async def is_serving(target: str, service: str, timeout: float) -> tuple[bool, str]:
    """Whether `service` at `target` (HOST:PORT, without TLS) is SERVING, and the server's word for it.

    ClientError when there is no answer within `timeout` seconds.
    """
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc(error, target, "the health check") from error
    word = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return reply.status == health_pb2.HealthCheckResponse.SERVING, word
