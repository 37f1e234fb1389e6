"""Calls about the daemon itself: how much it logs, what it is at, and its configuration."""

from __future__ import annotations

from crib.api.calls import Answer, Call, Read, Verb, nothing
from crib.api.translate import configuration
from crib.api.translate import insight as translate
from crib.api.translate.insight import LogOrder
from crib.engine.node import Node
from crib.stubs.node.v1 import node_pb2 as pb


class DaemonCalls:
    """Those of crib.v1.Node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """By their names."""
        return {
            "SetLogLevel": Read(pb.SetLogLevelRequest, translate.decode_log_level, self._set_log_level),
            "InspectDaemon": Verb(pb.InspectDaemonRequest, nothing, self._inspect),
            "ShowConfig": Verb(pb.ShowConfigRequest, nothing, self._show_configuration),
            "ReloadConfig": Verb(pb.ReloadConfigRequest, nothing, self._reload),
        }

    def _set_log_level(self, order: LogOrder) -> Answer:
        insight = self._node.insight
        if order.reset:
            insight.reset_log()
        if order.rule is not None:
            insight.log(order.rule)
        return pb.SetLogLevelResponse(rules=translate.encode_rules(insight.log_rules()))

    async def _inspect(self, _: None) -> Answer:
        return translate.encode_dump(await self._node.insight.dump())

    async def _show_configuration(self, _: None) -> Answer:
        return configuration.encode_shown(await self._node.configuration.show())

    async def _reload(self, _: None) -> Answer:
        work = self._node.keeper.begin("reload of the configuration", self._node.configuration.reload())
        return configuration.encode_reloaded(await work.wait())
