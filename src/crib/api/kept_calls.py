"""Calls about pods that are kept up without a kubelet."""

from __future__ import annotations

from crib.api.calls import Answer, Call, Verb, nothing
from crib.api.translate import kept as translate
from crib.engine.node import Node
from crib.model.kept import KeepOrder, WantOrder
from crib.stubs.node.v1 import node_pb2 as pb


class KeptCalls:
    """Those of crib.v1.Node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """By their names."""
        return {
            "KeepPod": Verb(pb.KeepPodRequest, translate.decode_keep, self._keep),
            "WantKeptPod": Verb(pb.WantKeptPodRequest, translate.decode_want, self._want),
            "ForgetKeptPod": Verb(pb.ForgetKeptPodRequest, translate.decode_forget, self._forget),
            "ListKeptPods": Verb(pb.ListKeptPodsRequest, nothing, self._list),
        }

    async def _keep(self, order: KeepOrder) -> Answer:
        await self._node.kept.keep_up(order)
        return pb.KeepPodResponse()

    async def _want(self, order: WantOrder) -> Answer:
        await self._node.kept.want(order)
        return pb.WantKeptPodResponse()

    async def _forget(self, named: tuple[str, str]) -> Answer:
        await self._node.kept.leave_alone(*named)
        return pb.ForgetKeptPodResponse()

    async def _list(self, _: None) -> Answer:
        kept = self._node.kept
        return translate.encode_kept(await kept.all_kept(), kept.problem)
