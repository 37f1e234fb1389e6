"""What a start and a check work with: the same verbs that pods and people have."""

from __future__ import annotations

from dataclasses import dataclass

from crib.engine.volumes.making import Making
from crib.engine.volumes.publishing import Publishing
from crib.engine.volumes.shelf import VolumeShelf
from crib.engine.volumes.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class VolumeParts:
    """Of one node."""

    shelf: VolumeShelf
    making: Making
    publishing: Publishing
    snapshots: Snapshots
