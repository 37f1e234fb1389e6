"""Calls about node plugins (NRI)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crib.api.calls import Answer, Call, Read, nothing
from crib.engine.node import Node
from crib.model.plugin_status import PluginStatus
from crib.stubs.node.v1 import node_pb2 as pb


class PluginCalls:
    """Those of crib.v1.Node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """By their names."""
        return {"ListPlugins": Read(pb.ListPluginsRequest, nothing, self._list)}

    def _list(self, _: None) -> Answer:
        plugins = encode_plugins(self._node.plugin_statuses())
        return pb.ListPluginsResponse(plugins=plugins, enabled=self._node.settings.nri.enable)


def encode_plugins(found: Iterable[PluginStatus]) -> Iterator[pb.NodePlugin]:
    """In the same order."""
    for one in found:
        yield pb.NodePlugin(
            name=one.name,
            state=one.state,
            since=one.since,
            pid=one.pid,
            installed=one.installed,
            nri_version=one.version,
            events=one.events,
            calls=one.calls,
            failures=one.failures,
            duration=round(one.seconds * 1e9),
            starts=one.starts,
            problem=one.problem,
        )
