"""What takes how much of the disk, and what of it could be had back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crib.model.ids import ContainerId, Digest, ImageId, SandboxId
from crib.model.image import DiskSpace


@dataclass(frozen=True, slots=True)
class StoredLayers:
    """What the image store has on disk. All in bytes."""

    layers: Mapping[Digest, int] = field(default_factory=dict)
    half_made: int = 0
    """What pulls and imports have begun."""


@dataclass(frozen=True, slots=True)
class LayerUse:
    """One layer, and who needs it."""

    diff_id: Digest
    size: int
    """Bytes on disk."""
    images: int
    """That have it."""
    containers: int
    """That were made from it."""
    is_reclaimable: bool
    """No container needs it, and no pinned image."""


@dataclass(frozen=True, slots=True)
class ImageUse:
    """One image. Bytes on disk."""

    id: ImageId
    names: tuple[str, ...]
    size: int
    """Of all its layers."""
    own: int
    """Of those that no other image has."""
    containers: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """What a container has written. None: the disk did not tell in time."""

    id: ContainerId
    sandbox_id: SandboxId
    pod: str
    """NAMESPACE/NAME."""
    name: str
    image_id: ImageId
    has_ended: bool
    writable: int | None = None
    inodes: int | None = None
    logs: int | None = None
    """With those that were rotated."""


@dataclass(frozen=True, slots=True)
class DiskUse:
    """All that crib keeps on this node."""

    layers: tuple[LayerUse, ...]
    images: tuple[ImageUse, ...]
    containers: tuple[ContainerUse, ...]
    half_made: int
    records: Mapping[str, int]
    """Bytes of each database, by its path."""
    space: DiskSpace
    """Of the file system that holds the layers."""
