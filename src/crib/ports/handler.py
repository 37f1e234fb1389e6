"""What runs the pods of one RuntimeClass handler, and what it offers for that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from crib.model.facts import HandlerFacts, Readiness
from crib.model.settings import Settings
from crib.ports.checkpoints import Checkpoints
from crib.ports.containers import ContainerRuntime
from crib.ports.logs import ContainerLogs
from crib.ports.pods import PodRuntime
from crib.ports.statistics import Statistics
from crib.ports.streams import ContainerStreams


class Handler(Protocol):
    """A kind of runtime with its settings. Its ports may be implemented elsewhere."""

    @property
    def facts(self) -> HandlerFacts: ...

    @property
    def pods(self) -> PodRuntime: ...

    @property
    def containers(self) -> ContainerRuntime: ...

    @property
    def streams(self) -> ContainerStreams: ...

    @property
    def logs(self) -> ContainerLogs: ...

    @property
    def checkpoints(self) -> Checkpoints | None:
        """None: its kind makes none."""
        ...

    @property
    def statistics(self) -> Statistics: ...

    async def readiness(self) -> Readiness:
        """Whether the programs that it needs are there; looked at every few seconds at most."""
        ...

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        """Remove what of ours is of no known id, asked for after the look, and contained commands of an
        earlier daemon; says what was, or with `dry` would be.
        """
        ...

    async def dismantle(self) -> None:
        """Undo what was set up for all pods. Called when there is no pod left, by a wipe."""
        ...

    def adapt(self, settings: Settings) -> None:
        """Go by other settings from now on; they differ in what is LIVE only."""
        ...

    async def close(self) -> None: ...
