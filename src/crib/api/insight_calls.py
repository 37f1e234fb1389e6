"""Calls about the daemon itself: how much it logs, and what it is at."""

from __future__ import annotations

from crib.api.calls import Answer, Call, Read, Verb, nothing
from crib.api.translate import insight as translate
from crib.api.translate.insight import LogOrder
from crib.engine.node import Node
from crib.stubs.node.v1 import node_pb2 as pb


class InsightCalls:
    """Those of crib.v1.Node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """By their names."""
        return {
            "SetLogLevel": Read(pb.SetLogLevelRequest, translate.decode_log_level, self._set_log_level),
            "InspectDaemon": Verb(pb.InspectDaemonRequest, nothing, self._inspect),
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
