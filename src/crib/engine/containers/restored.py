"""Whether a container is to be made from a checkpoint, and what of the checkpoint counts then.

As with CRI-O, the image of the request says so: it is the path of an archive, or a checkpoint image. What the
container is comes from the request alone. The checkpoint gives CRIU's images, the changes in the root, and
the name of the image below them. That image must be on this node, and its policy holds for it as for any
other.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace

from crib.engine.containers.checkpoint import able
from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.policy import PolicyGuard
from crib.model.container import ContainerConfig
from crib.model.errors import InvalidRequest, NotFound, WrongState
from crib.model.image import ImageRecord
from crib.model.sandbox import NamespaceMode, SandboxRecord
from crib.ports.checkpoints import CheckpointFacts, CheckpointSource

MARKS = (
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "io.podman.annotations.checkpoint.name",
)
"""Annotations of a manifest, one of which makes an image a checkpoint."""
_FIELD = "image.image"


@dataclass(frozen=True, slots=True)
class Restored:
    """A checkpoint, and the image that its container had."""

    source: CheckpointSource
    origin: str
    """As the request names it."""
    image: ImageRecord
    image_name: str

    def plain(self, config: ContainerConfig) -> ContainerConfig:
        """The same container, made of its image as any other."""
        return replace(config, image=self.image.id, user_specified_image=self.image_name)


class FindRestored:
    """Looks at the image of a request."""

    def __init__(self, core: Core, catalogue: Catalogue, policy: PolicyGuard) -> None:
        self._core = core
        self._catalogue = catalogue
        self._policy = policy

    async def __call__(
        self, sandbox: SandboxRecord, config: ContainerConfig, given: CheckpointSource | None = None
    ) -> Restored | None:
        """None for an ordinary image. WrongState where restoring is off, InvalidRequest, NotFound.

        `given`: a checkpoint that the image of the request does not name, but must be the image of.
        """
        source = given or await self._source(config)
        if source is None:
            return None
        what = f"cannot restore from {source.path or config.image}"
        if not self._core.settings.checkpoints.restore:
            raise WrongState(f"{what}: the setting checkpoints.restore is off", field=_FIELD)
        checkpoints = able(self._core, sandbox.handler)
        if config.security.namespaces.pid != NamespaceMode.CONTAINER:
            raise WrongState(f"{what}: the container would share its process ids with others")
        if sandbox.config.user_namespace is not None:
            raise WrongState(f"{what}: the pod has a user namespace")
        facts = await checkpoints.inspect(source)
        image, name = self._image(what, facts)
        if given is not None:
            if (wanted := self._catalogue.find(config.image)) is None or wanted.id != image.id:
                raise InvalidRequest(f"{config.image!r} is not {name}, which {what[14:]} is of", field=_FIELD)
            return Restored(source, source.path, image, config.user_specified_image or config.image)
        return Restored(source, config.user_specified_image or config.image, image, name)

    async def _source(self, config: ContainerConfig) -> CheckpointSource | None:
        if config.image.startswith("/"):
            return CheckpointSource(path=config.image)
        if not self._core.settings.checkpoints.restore:
            return None  # it has no command, so it is refused as an image
        image = self._catalogue.find(config.image)
        if image is None or not await self._is_checkpoint(image):
            return None
        await self._policy.before_run(image, config.user_specified_image or config.image)
        return CheckpointSource(layers=tuple(layer.diff_id for layer in image.layers))

    async def _is_checkpoint(self, image: ImageRecord) -> bool:
        documents = await self._core.ports.records.image_documents(image.id)
        annotations = json.loads(documents.manifest or b"{}").get("annotations") or {}
        return any(mark in annotations for mark in MARKS)

    def _image(self, what: str, facts: CheckpointFacts) -> tuple[ImageRecord, str]:
        """The image on this node that the checkpoint names, and its name for people."""
        for name in facts.images:
            with suppress(InvalidRequest):
                if (found := self._catalogue.find(name)) is not None:
                    return found, facts.images[-1]
        wanted = facts.images[-1] if facts.images else "(not named)"
        wanted = facts.images[-1] if facts.images else "(not named)"
        raise NotFound(f"{what}: its image {wanted} is not on this node: pull it first", field=_FIELD)
