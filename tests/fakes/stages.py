"""A timer of stages that times nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from crib.model.events import Stage
from crib.ports.clocks import Untimed


@dataclass
class NoStages(Untimed):
    """What it is given it keeps."""

    adopted: list[Stage] = field(default_factory=list)

    def adopt(self, stages: Sequence[Stage], /) -> None:
        self.adopted += stages
