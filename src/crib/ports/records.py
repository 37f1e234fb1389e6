"""What keeps the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from crib.model.container import ContainerRecord
from crib.model.finding import Finding
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.image import ImageDocuments, ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.model.volumes import SnapshotId, SnapshotRecord, VolumeId, VolumeRecord


@dataclass(frozen=True, slots=True)
class AllRecords:
    """Everything that is kept, as read at start."""

    sandboxes: Sequence[SandboxRecord]
    containers: Sequence[ContainerRecord]
    images: Sequence[ImageRecord]
    lost_images: Sequence[str] = ()
    """What is known of images whose rows were lost: layers that no row names may be theirs."""
    volumes: Sequence[VolumeRecord] = ()
    snapshots: Sequence[SnapshotRecord] = ()


class Records(Protocol):
    """Durable rows: those of pods survive a kill once a call returns. What cannot be kept `watch` tells."""

    def load(self) -> AllRecords:
        """Read all rows; one that cannot be read is set aside and logged, never fatal."""
        ...

    def watch(self, told: Callable[[str], None], mended: Callable[[str], None]) -> None:
        """Tell from now on why rows cannot be kept (nothing: all can), and what damage was mended."""
        ...

    def put_sandbox(self, record: SandboxRecord) -> None: ...

    def delete_sandbox(self, sandbox: SandboxId) -> None: ...

    def put_container(self, record: ContainerRecord) -> None: ...

    def delete_container(self, container: ContainerId) -> None: ...

    def put_volume(self, record: VolumeRecord) -> None:
        """That of a volume without users is synced to disk soon: what its maker answered is not lost."""
        ...

    def delete_volume(self, volume: VolumeId) -> None: ...

    def put_snapshot(self, record: SnapshotRecord) -> None: ...

    def delete_snapshot(self, snapshot: SnapshotId) -> None: ...

    async def put_image(self, record: ImageRecord, documents: ImageDocuments | None = None) -> None:
        """Synced to disk: after a power cut no image is listed whose layers are not there.

        Without `documents` those that were written earlier stay.
        """
        ...

    async def image_documents(self, image: ImageId) -> ImageDocuments:
        """The image's documents; empty ones when there are none."""
        ...

    async def delete_image(self, image: ImageId) -> None:
        """Synced as well, or tried until it is."""
        ...

    async def sizes(self) -> Mapping[str, int]:
        """Bytes that each database takes, by its path; without those that do not tell in time."""
        ...

    async def check(self) -> Sequence[Finding]:
        """What is damaged, unreadable or was set aside; nothing is changed."""
        ...

    def close(self) -> None: ...
