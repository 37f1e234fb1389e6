"""The port `Records` in memory."""

from __future__ import annotations

from collections.abc import Sequence

from crib.model.container import ContainerRecord
from crib.model.finding import Finding
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.model.image import ImageDocuments, ImageRecord
from crib.model.sandbox import SandboxRecord
from crib.ports import AllRecords
from tests.fakes.failpoints import Failpoints


class MemoryRecords:
    """Rows that live as long as this object: give it to a second engine to play a restart.

    Failpoints: put_sandbox, delete_sandbox, put_container, delete_container, put_image, delete_image,
    image_documents.
    `written` tells each state that was ever written, in order.
    """

    def __init__(self) -> None:
        self.failpoints = Failpoints()
        self.sandboxes: dict[SandboxId, SandboxRecord] = {}
        self.containers: dict[ContainerId, ContainerRecord] = {}
        self.images: dict[ImageId, ImageRecord] = {}
        self.documents: dict[ImageId, ImageDocuments] = {}
        self.written: list[tuple[str, str]] = []
        self.findings: list[Finding] = []

    def load(self) -> AllRecords:
        return AllRecords(
            tuple(self.sandboxes.values()), tuple(self.containers.values()), tuple(self.images.values())
        )

    def put_sandbox(self, record: SandboxRecord) -> None:
        self.failpoints.reach_nowait("put_sandbox", record.id)
        self.sandboxes[record.id] = record
        self.written.append((record.id, record.state))

    def delete_sandbox(self, sandbox: SandboxId) -> None:
        self.failpoints.reach_nowait("delete_sandbox", sandbox)
        self.sandboxes.pop(sandbox, None)

    def put_container(self, record: ContainerRecord) -> None:
        self.failpoints.reach_nowait("put_container", record.id)
        self.containers[record.id] = record
        self.written.append((record.id, record.state))

    def delete_container(self, container: ContainerId) -> None:
        self.failpoints.reach_nowait("delete_container", container)
        self.containers.pop(container, None)

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

    async def check(self) -> Sequence[Finding]:
        await self.failpoints.reach("check")
        return self.findings

    def close(self) -> None:
        """Nothing to let go of."""
