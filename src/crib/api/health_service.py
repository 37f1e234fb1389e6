"""grpc.health.v1.Health: whether the daemon would serve, for probes. See the gRPC health checking protocol.

SERVING means that calls are taken and that pods can be made. While the daemon recovers, while something is
wrong with the node (`engine.notices`) and from the moment when it is told to stop, it is NOT_SERVING. All of
its services have the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2 as pb

from crib.api import image_service, node_service, runtime_service
from crib.api.calls import Answer, Call, Read, Stream
from crib.api.interceptors import ReadinessGate
from crib.engine.notices import Notices
from crib.model.errors import NotFound

NAME = "grpc.health.v1.Health"
KNOWN = frozenset(("", NAME, runtime_service.NAME, image_service.NAME, node_service.NAME))
"""The empty name stands for the daemon."""


class HealthService:
    """Follows the gate and the node's faults."""

    def __init__(self, gate: ReadinessGate, notices: Notices) -> None:
        self._gate = gate
        self._notices = notices
        self._changed = asyncio.Event()
        """Set at the next change, and then replaced."""
        gate.watchers.append(self._tell)
        notices.watchers.append(self._tell)

    def calls(self) -> dict[str, Call]:
        """Every call by its name."""
        return {
            "Check": Read(pb.HealthCheckRequest, _decode, self._check),
            "Watch": Stream(pb.HealthCheckRequest, _decode, self._watch),
        }

    def _check(self, service: str) -> Answer:
        if service not in KNOWN:
            raise NotFound(f"there is no service {service!r}")
        return self._answer(service)

    async def _watch(self, service: str) -> AsyncIterator[Answer]:
        """The status, and each other one that comes after it, until the daemon stops."""
        told = None
        while True:
            changed, is_last = self._changed, self._gate.is_shut
            answer = self._answer(service)
            if answer != told:
                yield answer
                told = answer
            if is_last:
                return
            await changed.wait()

    def _answer(self, service: str) -> Message:
        serves = not self._gate.reason and not self._notices.faults
        status = pb.HealthCheckResponse.SERVING if serves else pb.HealthCheckResponse.NOT_SERVING
        known = service in KNOWN
        answer: Message = pb.HealthCheckResponse(
            status=status if known else pb.HealthCheckResponse.SERVICE_UNKNOWN
        )
        return answer

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _decode(message: pb.HealthCheckRequest) -> str:
    return str(message.service)
