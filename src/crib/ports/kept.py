"""Pods that are kept up without a kubelet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crib.model.kept import KeepOrder, KeptPod, WantOrder


class KeptPods(Protocol):
    """Remembers which, across restarts and boots, and has somebody keep them up."""

    @property
    def problem(self) -> str:
        """Why nobody keeps them up at this moment; empty: somebody does, or there are none."""
        ...

    async def keep_up(self, order: KeepOrder) -> None:
        """Begin, or begin anew with this manifest. WrongState where the settings forbid it."""
        ...

    async def want(self, order: WantOrder) -> None:
        """Run it or stop it. NotFound when it is not kept."""
        ...

    async def leave_alone(self, namespace: str, name: str) -> None:
        """No longer; what runs of it goes on. NotFound when it is not kept."""
        ...

    async def all_kept(self) -> Sequence[KeptPod]:
        """All of them, by namespace and name."""
        ...
