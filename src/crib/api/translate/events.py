"""Container events, with the states as they were when they happened."""

from __future__ import annotations

from crib.api.translate import containers, sandboxes
from crib.model.events import ContainerEvent
from crib.stubs.runtime.v1 import api_pb2 as pb


def encode(event: ContainerEvent) -> pb.ContainerEventResponse:
    return pb.ContainerEventResponse(
        container_id=event.container_id,
        container_event_type=pb.ContainerEventType.ValueType(event.type),
        created_at=event.at,
        pod_sandbox_status=None if event.sandbox is None else sandboxes.encode_status(event.sandbox),
        containers_statuses=[containers.encode_status(record) for record in event.containers],
    )
