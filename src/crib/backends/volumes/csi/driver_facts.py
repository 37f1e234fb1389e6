"""Who a driver is and what it can, as it says itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from crib.backends.volumes.csi.calls import (
    CONTROLLER_GET_CAPABILITIES,
    GET_PLUGIN_CAPABILITIES,
    GET_PLUGIN_INFO,
    NODE_GET_CAPABILITIES,
    NODE_GET_INFO,
    PROBE,
)
from crib.backends.volumes.csi.channel import DriverCall
from crib.backends.volumes.csi.errands import Errand
from crib.model.errors import Broken, NotBuilt, Unavailable
from crib.stubs.csi.v1 import csi_pb2 as pb

A = TypeVar("A", bound=Message)

MAX_TEXT = 4096
"""Characters of a name, an id or a version. The interface has 128, which not all drivers keep to."""
MAX_MAP = 64 << 10
"""Characters of a context, keys and values. The interface has 4 KiB."""

_SERVICES = pb.PluginCapability.Service.Type.DESCRIPTOR
_GROWTH = pb.PluginCapability.VolumeExpansion.Type.DESCRIPTOR
_CONTROLLER = pb.ControllerServiceCapability.RPC.Type.DESCRIPTOR
_NODE = pb.NodeServiceCapability.RPC.Type.DESCRIPTOR


class Ask(Protocol):
    """Makes a call; CribError."""

    async def __call__(self, one: DriverCall[A], request: Message, errand: Errand) -> A: ...


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """Of one driver. What it can is in the interface's words."""

    name: str
    version: str = ""
    plugin: frozenset[str] = frozenset()
    controller: frozenset[str] = frozenset()
    """Empty without the service Controller."""
    node: frozenset[str] = frozenset()
    offline: bool = False
    """Volumes must not be in use when they are expanded."""
    node_id: str = ""
    most_volumes: int = 0
    """That this node can have attached; 0: not known."""
    topology: Mapping[str, str] = field(default_factory=dict)
    """Where this node is, in the driver's words."""

    @property
    def creates(self) -> bool:
        return "CREATE_DELETE_VOLUME" in self.controller

    @property
    def attaches(self) -> bool:
        return "PUBLISH_UNPUBLISH_VOLUME" in self.controller

    @property
    def snapshots(self) -> bool:
        return "CREATE_DELETE_SNAPSHOT" in self.controller

    @property
    def clones(self) -> bool:
        return self.creates and "CLONE_VOLUME" in self.controller

    @property
    def stages(self) -> bool:
        return "STAGE_UNSTAGE_VOLUME" in self.node

    @property
    def tells_usage(self) -> bool:
        return bool(self.node & {"GET_VOLUME_STATS", "VOLUME_CONDITION"})

    @property
    def counts_writers(self) -> bool:
        """It knows the access modes for one and for several writers on one node."""
        return "SINGLE_NODE_MULTI_WRITER" in self.node

    @property
    def gives_group(self) -> bool:
        """It gives files to a group itself."""
        return "VOLUME_MOUNT_GROUP" in self.node

    @property
    def is_somewhere(self) -> bool:
        """Its volumes cannot be had everywhere."""
        return "VOLUME_ACCESSIBILITY_CONSTRAINTS" in self.plugin

    @property
    def expands_controller(self) -> bool:
        return "EXPAND_VOLUME" in self.controller

    @property
    def expands_node(self) -> bool:
        return "EXPAND_VOLUME" in self.node


async def read_facts(name: str, ask: Ask, errand: Errand) -> DriverFacts:
    """Of the driver that should have this name. CribError."""
    info = await ask(GET_PLUGIN_INFO, pb.GetPluginInfoRequest(), errand)
    if info.name != name:
        raise Broken(
            f"driver {name}: who listens on its socket calls itself {info.name[:MAX_TEXT]!r}",
            field=f"volumes.drivers.{name}.socket",
        )
    plugin = await ask(GET_PLUGIN_CAPABILITIES, pb.GetPluginCapabilitiesRequest(), errand)
    await _until_ready(name, ask, errand)
    services = _names(_SERVICES, [one.service.type for one in plugin.capabilities])
    growth = _names(_GROWTH, [one.volume_expansion.type for one in plugin.capabilities])
    controller: frozenset[str] = frozenset()
    if "CONTROLLER_SERVICE" in services:
        told = await ask(CONTROLLER_GET_CAPABILITIES, pb.ControllerGetCapabilitiesRequest(), errand)
        controller = _names(_CONTROLLER, [one.rpc.type for one in told.capabilities])
    able = await ask(NODE_GET_CAPABILITIES, pb.NodeGetCapabilitiesRequest(), errand)
    place = await _place(name, ask, errand, needed="PUBLISH_UNPUBLISH_VOLUME" in controller)
    return DriverFacts(
        name=info.name,
        version=info.vendor_version[:MAX_TEXT],
        plugin=services,
        controller=controller,
        node=_names(_NODE, [one.rpc.type for one in able.capabilities]),
        offline=growth == {"OFFLINE"},
        node_id=place.node_id,
        most_volumes=max(place.max_volumes_per_node, 0),
        topology=dict(place.accessible_topology.segments),
    )


async def _until_ready(name: str, ask: Ask, errand: Errand) -> None:
    """A driver that gets ready says so, instead of an error."""
    told = await ask(PROBE, pb.ProbeRequest(), errand)
    if told.HasField("ready") and not told.ready.value:
        raise Unavailable(f"driver {name}: it is not ready yet")


async def _place(name: str, ask: Ask, errand: Errand, *, needed: bool) -> pb.NodeGetInfoResponse:
    """What it says of this node; drivers that attach nothing need not know."""
    try:
        place = await ask(NODE_GET_INFO, pb.NodeGetInfoRequest(), errand)
    except NotBuilt:
        if needed:
            raise
        return pb.NodeGetInfoResponse()
    if (needed and not place.node_id) or len(place.node_id) > MAX_TEXT:
        raise Broken(f"driver {name}: NodeGetInfo: its node_id is empty or too long")
    return place


def _names(kind: EnumDescriptor, numbers: Collection[int]) -> frozenset[str]:
    """Their names; of those that are newer than this page of the interface, the numbers."""
    known = kind.values_by_number
    return frozenset(known[one].name if one in known else str(one) for one in numbers if one)
