"""Kept pods that are only remembered: nobody keeps them up."""

from __future__ import annotations

from collections.abc import Sequence

from crib.model.errors import NotFound
from crib.model.kept import KeepOrder, KeptPod, WantOrder


class FakeKeptPods:
    """`problem` may be set."""

    def __init__(self) -> None:
        self.problem = ""
        self.orders: dict[tuple[str, str], KeepOrder] = {}
        self.stopped: set[tuple[str, str]] = set()

    async def keep_up(self, order: KeepOrder) -> None:
        self.orders[order.namespace, order.name] = order
        self.stopped.discard((order.namespace, order.name))

    async def want(self, order: WantOrder) -> None:
        key = self._known(order.namespace, order.name)
        (self.stopped.discard if order.run else self.stopped.add)(key)

    async def leave_alone(self, namespace: str, name: str) -> None:
        del self.orders[self._known(namespace, name)]

    async def all_kept(self) -> Sequence[KeptPod]:
        return [
            KeptPod(order, key not in self.stopped, 1, "", "", "", 0, ())
            for key, order in sorted(self.orders.items())
        ]

    def _known(self, namespace: str, name: str) -> tuple[str, str]:
        if (namespace, name) not in self.orders:
            raise NotFound(f"pod {namespace}/{name} is not kept up")
        return namespace, name
