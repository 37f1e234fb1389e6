"""Calls about storage drivers (CSI)."""

from __future__ import annotations

from crib.api.calls import Answer, Call, Verb, nothing
from crib.engine.node import Node
from crib.model.driver_status import DriverStatus
from crib.stubs.node.v1 import node_pb2 as pb


class DriverCalls:
    """Those of crib.v1.Node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """By their names."""
        return {"ListVolumeDrivers": Verb(pb.ListVolumeDriversRequest, nothing, self._list)}

    async def _list(self, _: None) -> Answer:
        found = await self._node.volumes.drivers()
        return pb.ListVolumeDriversResponse(drivers=map(encode_driver, found))


def encode_driver(one: DriverStatus) -> pb.VolumeDriver:
    """As it is now."""
    return pb.VolumeDriver(
        name=one.name,
        socket=one.socket,
        ready=one.ready,
        problem=one.problem,
        version=one.version,
        capabilities=one.capabilities,
        node_id=one.node_id,
        most_volumes=one.most_volumes,
        calls=one.calls,
        failures=one.failures,
        duration=round(one.seconds * 1e9),
    )
