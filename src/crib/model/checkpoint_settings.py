"""What the administrator can set about checkpoints of containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from crib.model.keys import LIVE, PathOrNone


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """Checkpoints of running containers, by CRIU."""

    criu: PathOrNone = ""
    """The program; its file must be called criu. Empty: found on PATH."""
    restore: Annotated[bool, LIVE] = False
    """Let containers be made from checkpoints, which must come from those whom the node trusts."""
