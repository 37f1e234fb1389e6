"""crib.v1.Node: what the CRI has no call for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from crib.api.calls import Answer, Call, Read, Stream, Verb, nothing
from crib.api.daemon_calls import DaemonCalls
from crib.api.driver_calls import DriverCalls
from crib.api.errors import status_of
from crib.api.kept_calls import KeptCalls
from crib.api.plugin_calls import PluginCalls, encode_plugins
from crib.api.stream_calls import StreamCalls, UrlFor
from crib.api.translate import disk, ends, history, networks, upkeep
from crib.api.translate import node as translate
from crib.api.translate.insight import encode_rules
from crib.api.translate.networks import CheckNetworks
from crib.api.translate.node import ExportOrder, FollowOrder, ImageCheckOrder, ImportOrder
from crib.api.volume_calls import VolumeCalls
from crib.engine.checks.images import LayerCheck
from crib.engine.endings import WantedEnd
from crib.engine.history import EventFilter
from crib.engine.node import Node
from crib.model.errors import CribError, below
from crib.model.explanation import PlannedContainer
from crib.model.finding import WipeOrder
from crib.model.image import PullOrder
from crib.stubs.node.v1 import node_pb2 as pb

NAME = "crib.v1.Node"


class NodeService:
    """The node as crib sees it."""

    def __init__(self, node: Node, version: str, url_for: UrlFor) -> None:
        """`url_for` makes the URLs of streams."""
        self._node = node
        self._streams = StreamCalls(node.streams, url_for)
        self._version = version
        self._started_at = time.time_ns()

    def calls(self) -> dict[str, Call]:
        """Every call by its name."""
        return {
            "Info": Verb(pb.InfoRequest, nothing, self._info),
            "ImportImage": Stream(pb.ImportImageRequest, translate.decode_import, self._import),
            "PullImageProgress": Stream(pb.PullProgressRequest, translate.decode_follow, self._follow),
            "ExplainRegistry": Verb(pb.ExplainRegistryRequest, translate.decode_explain, self._explain),
            "CheckImages": Stream(pb.CheckImagesRequest, translate.decode_check, self._check),
            "ExportImages": Verb(pb.ExportImagesRequest, translate.decode_export, self._export),
            "ExplainContainer": Verb(
                pb.ExplainContainerRequest, translate.decode_explain_container, self._explain_container
            ),
            "ListNetworks": Verb(pb.ListNetworksRequest, nothing, self._networks),
            "InspectPodNetwork": Verb(
                pb.InspectPodNetworkRequest, networks.decode_inspect, self._inspect_network
            ),
            "CheckNetworks": Stream(pb.CheckNetworksRequest, networks.decode_check, self._check_networks),
            "CollectNetworkGarbage": Verb(
                pb.CollectNetworkGarbageRequest, networks.decode_collect, self._collect
            ),
            "RemoveNetwork": Verb(pb.RemoveNetworkRequest, nothing, self._remove_network),
            "Timeline": Read(pb.TimelineRequest, history.decode_timeline, self._timeline),
            "ListTimelines": Stream(pb.ListTimelinesRequest, nothing, self._timelines),
            "Events": Stream(pb.EventsRequest, history.decode_events, self._events),
            "ListWork": Read(pb.ListWorkRequest, nothing, self._work),
            "Abandon": Read(pb.AbandonRequest, upkeep.decode_abandon, self._abandon),
            "CheckNode": Stream(pb.CheckNodeRequest, upkeep.decode_check, self._check_node),
            "Wipe": Stream(pb.WipeRequest, upkeep.decode_wipe, self._wipe),
            "ExplainEnd": Read(pb.ExplainEndRequest, ends.decode_explain, self._explain_end),
            "DiskUsage": Verb(pb.DiskUsageRequest, nothing, self._disk_usage),
            **DaemonCalls(self._node).calls(),
            **KeptCalls(self._node).calls(),
            **PluginCalls(self._node).calls(),
            **VolumeCalls(self._node).calls(),
            **DriverCalls(self._node).calls(),
            **self._streams.own_calls(),
        }

    async def _info(self, _: None) -> Answer:
        node = self._node
        about = {"version": self._version, "cgroup_driver": node.cgroup_driver}
        answer = translate.encode_info(await node.status(), node.settings, about)
        answer.started_at = self._started_at
        answer.log_rules.extend(encode_rules(node.insight.log_rules()))
        answer.plugins.extend(encode_plugins(node.plugin_statuses()))
        layers = {layer.diff_id for image in node.images.list() for layer in image.layers}
        answer.counts.layers = len(layers)
        return answer

    async def _import(self, wanted: ImportOrder) -> AsyncIterator[Answer]:
        async for update in self._node.images.import_archive(wanted.path, wanted.names):
            yield translate.encode_import(update)

    async def _follow(self, wanted: FollowOrder) -> AsyncIterator[Answer]:
        """A failure of the pull itself is the last message; one to find it is the call's."""
        image = str(wanted.order.reference)
        begun = False
        try:
            async for update in self._node.images.follow_pull(wanted.order, start=wanted.start):
                begun = True
                yield translate.encode_pull(image, update)
        except CribError as error:
            if not begun:
                raise
            code, text = status_of(error, "PullImage")
            yield translate.encode_failed_pull(image, code.name, text)

    async def _explain(self, order: PullOrder) -> Answer:
        return translate.encode_explanation(order.reference, *await self._node.images.explain(order))

    async def _explain_container(self, wanted: str | PlannedContainer) -> Answer:
        with below("config", pod="sandbox_config"):
            return translate.encode_explained(await self._node.containers.explain(wanted))

    async def _check(self, wanted: ImageCheckOrder) -> AsyncIterator[Answer]:
        found: list[LayerCheck] = []
        async for check in self._node.images.check(wanted.images, repair=wanted.repair):
            found.append(check)
            yield translate.encode_check(check)
        yield translate.encode_checked(found)

    async def _export(self, wanted: ExportOrder) -> Answer:
        size = await self._node.images.export(wanted.path, wanted.images, wanted.format)
        return pb.ExportImagesResponse(size_bytes=size)

    async def _networks(self, _: None) -> Answer:
        return networks.encode_networks(await self._node.networks.list())

    async def _inspect_network(self, text: str) -> Answer:
        record = self._node.sandboxes.get(text)
        netns = self._node.sandboxes.netns(record)
        return networks.encode_view(record, netns, await self._node.networks.view(record))

    async def _check_networks(self, wanted: CheckNetworks) -> AsyncIterator[Answer]:
        async for found in self._node.networks.check(wanted.sandboxes, repair=wanted.repair):
            yield networks.encode_check(found)

    async def _collect(self, everything: bool) -> Answer:
        released = await self._node.networks.collect(everything=everything)
        return pb.CollectNetworkGarbageResponse(released=released)

    async def _remove_network(self, _: None) -> Answer:
        await self._node.networks.remove()
        return pb.RemoveNetworkResponse()

    def _work(self, _: None) -> Answer:
        return upkeep.encode_work(self._node.abandon.under_way())

    def _abandon(self, wanted: tuple[str, str]) -> Answer:
        return pb.AbandonResponse(abandoned=self._node.abandon(*wanted))

    async def _check_node(self, wanted: upkeep.NodeCheckOrder) -> AsyncIterator[Answer | None]:
        yield None  # the client may have long to wait for the first finding
        async for found in self._node.check(repair=wanted.repair, quick=wanted.quick):
            yield upkeep.encode_finding(found)

    async def _wipe(self, order: WipeOrder) -> AsyncIterator[Answer]:
        async for wiped in self._node.wipe(order):
            yield upkeep.encode_wiped(wiped)

    def _explain_end(self, wanted: WantedEnd) -> Answer:
        return pb.ExplainEndResponse(ends=map(ends.encode_told, self._node.why(wanted)))

    async def _disk_usage(self, _: None) -> Answer:
        return disk.encode_use(await self._node.disk_usage())

    def _timeline(self, text: str) -> Answer:
        return history.encode_timeline(self._node.timeline(text))

    async def _timelines(self, _: None) -> AsyncIterator[Answer]:
        async for found in self._node.timelines():
            yield history.encode_timeline(found)

    async def _events(self, wanted: EventFilter) -> AsyncIterator[Answer]:
        async for batch in self._node.history.read(wanted):
            yield history.encode_events(batch)
