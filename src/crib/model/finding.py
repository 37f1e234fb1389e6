"""What a check of the node finds, and what a wipe removes: a line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the records say, or as it should be."""

    area: str
    """Where: node, records, containers, pods, leftovers, images, network, volumes or logs."""
    subject: str
    """What: an id, a path, a digest or a name."""
    problem: str
    mend: str = ""
    """What a repair does about it; empty: nothing, an administrator must."""
    is_note: bool = False
    """It is for information; nothing is wrong with it."""
    mended: bool = False
    mend_error: str = ""
    """Why a repair did not succeed."""

    @property
    def is_left(self) -> bool:
        """Whether it is wrong, and still there."""
        return not self.is_note and not self.mended


WIPE_KINDS = ("pods", "containers", "network", "volumes", "images", "layers")
"""What a wipe can be of, in the order in which it goes."""


@dataclass(frozen=True, slots=True)
class WipeOrder:
    """What is to be removed."""

    kinds: frozenset[str]
    """Of WIPE_KINDS."""
    dry: bool = False
    """Remove nothing, only report what would be removed."""
    force: bool = False
    """Containers that run are ended."""


@dataclass(frozen=True, slots=True)
class Wiped:
    """One thing that was removed, or would be."""

    kind: str
    name: str
    problem: str = ""
    """Why it is still there."""
