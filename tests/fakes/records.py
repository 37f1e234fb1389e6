"""The port `Records` in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crib.model.container import ContainerRecord
from crib.model.finding import Finding
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.image import ImageDocuments, ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.model.volumes import SnapshotId, SnapshotRecord, VolumeId, VolumeRecord
from crib.ports.records import AllRecords
from tests.fakes.failpoints import Failpoints


class MemoryRecords:
    """Rows that live as long as this object: give it to a second engine to play a restart.

    Failpoints: put_image, delete_image, image_documents. `breaks` and `heals` play a disk that takes no row
    of a pod for a while. `written` tells each state that was ever written, in order.
    """

    def __init__(self) -> None:
        self.failpoints = Failpoints()
        self.sandboxes: dict[SandboxId, SandboxRecord] = {}
        self.containers: dict[ContainerId, ContainerRecord] = {}
        self.images: dict[ImageId, ImageRecord] = {}
        self.documents: dict[ImageId, ImageDocuments] = {}
        self.volumes: dict[VolumeId, VolumeRecord] = {}
        self.snapshots: dict[SnapshotId, SnapshotRecord] = {}
        self.written: list[tuple[str, str]] = []
        self.findings: list[Finding] = []
        self.lost_images: tuple[str, ...] = ()
        self.problem = ""
        self.next_problem = ""
        """Begins with the next row."""
        self._owed: list[Callable[[], object]] = []
        self._told: Callable[[str], None] = lambda problem: None

    def breaks(self, problem: str) -> None:
        """From now on no row can be written; a daemon that starts now finds those of before."""
        self.problem = problem
        self._told(problem)

    def heals(self) -> None:
        """What could not be written is."""
        self.problem = ""
        for write in self._owed:
            write()
        self._owed.clear()
        self._told("")

    def load(self) -> AllRecords:
        self._owed.clear()
        return AllRecords(
            tuple(self.sandboxes.values()),
            tuple(self.containers.values()),
            tuple(self.images.values()),
            self.lost_images,
            tuple(self.volumes.values()),
            tuple(self.snapshots.values()),
        )

    def watch(self, told: Callable[[str], None], mended: Callable[[str], None]) -> None:
        self._told = told
        if self.problem:
            told(self.problem)

    def put_sandbox(self, record: SandboxRecord) -> None:
        self._write(lambda: self._put(self.sandboxes, record))

    def delete_sandbox(self, sandbox: SandboxId) -> None:
        self._write(lambda: self.sandboxes.pop(sandbox, None))

    def put_container(self, record: ContainerRecord) -> None:
        self._write(lambda: self._put(self.containers, record))

    def delete_container(self, container: ContainerId) -> None:
        self._write(lambda: self.containers.pop(container, None))

    def put_volume(self, record: VolumeRecord) -> None:
        self._write(lambda: self._put(self.volumes, record))

    def delete_volume(self, volume: VolumeId) -> None:
        self._write(lambda: self.volumes.pop(volume, None))

    def put_snapshot(self, record: SnapshotRecord) -> None:
        self._write(lambda: self._put(self.snapshots, record))

    def delete_snapshot(self, snapshot: SnapshotId) -> None:
        self._write(lambda: self.snapshots.pop(snapshot, None))

    def _write(self, write: Callable[[], object]) -> None:
        if self.next_problem:
            self.breaks(self.next_problem)
            self.next_problem = ""
        if self.problem:
            self._owed.append(write)
        else:
            write()

    def _put(
        self,
        rows: dict[Any, Any],
        record: SandboxRecord | ContainerRecord | VolumeRecord | SnapshotRecord,
    ) -> None:
        rows[record.id] = record
        self.written.append((record.id, record.state))

    async def put_image(self, record: ImageRecord, documents: ImageDocuments | None = None) -> None:
        await self.failpoints.reach("put_image", record.id)
        self.images[record.id] = record
        if documents is not None:
            self.documents[record.id] = documents

    async def image_documents(self, image: ImageId) -> ImageDocuments:
        await self.failpoints.reach("image_documents", image)
        return self.documents.get(image, ImageDocuments())

    async def delete_image(self, image: ImageId) -> None:
        await self.failpoints.reach("delete_image", image)
        self.images.pop(image, None)
        self.documents.pop(image, None)

    async def sizes(self) -> Mapping[str, int]:
        await self.failpoints.reach("sizes")
        return {"/records": 100 * (len(self.sandboxes) + len(self.containers) + len(self.images))}

    async def check(self) -> Sequence[Finding]:
        await self.failpoints.reach("check")
        return self.findings

    def close(self) -> None:
        """Nothing to let go of."""
