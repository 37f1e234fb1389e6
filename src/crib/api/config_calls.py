"""Calls about the daemon's configuration: what holds, and reading it again."""

from __future__ import annotations

from crib.api.calls import Answer, Call, Verb, nothing
from crib.api.translate import configuration as translate
from crib.engine.node import Node
from crib.stubs.node.v1 import node_pb2 as pb


class ConfigCalls:
    """Those of crib.v1.Node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """By their names."""
        return {
            "ShowConfig": Verb(pb.ShowConfigRequest, nothing, self._show),
            "ReloadConfig": Verb(pb.ReloadConfigRequest, nothing, self._reload),
        }

    async def _show(self, _: None) -> Answer:
        return translate.encode_shown(await self._node.configuration.show())

    async def _reload(self, _: None) -> Answer:
        work = self._node.keeper.begin("reload of the configuration", self._node.configuration.reload())
        return translate.encode_reloaded(await work.wait())
