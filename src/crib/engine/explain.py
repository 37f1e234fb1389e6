"""ExplainContainer: the OCI spec of a container or of a plan for one, each field with its origin.

look up   the container with its sandbox and image; for a plan the handler and the image, which must be here
act       the handler's containers.explain, which makes nothing
"""

from __future__ import annotations

from dataclasses import replace

from crib.engine.containers.create import CreateContainer, usable_image
from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.model.errors import NotFound
from crib.model.explanation import NO_CONTAINER, NO_SANDBOX, Explanation, PlannedContainer
from crib.model.image import ImageConfig
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.ports.containers import CreateRequest


class ExplainContainer:
    """The verb. A plan's image need not have passed the image policy: nothing of it is run."""

    def __init__(self, core: Core, catalogue: Catalogue, create: CreateContainer) -> None:
        self._core = core
        self._catalogue = catalogue
        self._create = create

    async def __call__(self, wanted: str | PlannedContainer) -> Explanation:
        """Explain a container, by its id or the beginning of it, or what a plan would give."""
        if isinstance(wanted, str):
            return await self._existing(wanted)
        return await self._planned(wanted)

    async def _existing(self, text: str) -> Explanation:
        core = self._core
        record = core.container(text)
        sandbox = core.sandboxes.get(record.sandbox_id)
        if sandbox is None:
            raise NotFound(f"the pod sandbox of container {record.id} is gone")
        image = self._catalogue.find(record.image_id)  # it may have been removed since
        config = image.config if image is not None else ImageConfig()
        request = CreateRequest(record, sandbox, config, edits=record.edits)
        explained = await core.caretaker(sandbox).containers.explain(request)
        return Explanation(record.id, sandbox.id, sandbox.handler, explained)

    async def _planned(self, wanted: PlannedContainer) -> Explanation:
        core = self._core
        name, handler = core.handler(wanted.handler)
        image = usable_image(self._catalogue.find(wanted.config.image), wanted.config)
        sandbox = SandboxRecord(
            id=NO_SANDBOX,
            config=wanted.sandbox,
            handler=name,
            state=SandboxState.CREATING,
            created_at=core.clock(),
            boot_id=core.facts.boot_id,
        )
        record = replace(self._create.draft(sandbox, wanted.config, image), id=NO_CONTAINER)
        request = CreateRequest(record, sandbox, image.config)
        explained = await handler.containers.explain(request)
        return Explanation(record.id, sandbox.id, name, explained)
