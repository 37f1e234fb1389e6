"""The images of a pod: used when they are here, pulled when not, as each container's policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client import images
from crib.client.errors import PodFailure, RuntimeFailure
from crib.manifest.credentials import credential_for
from crib.stubs.runtime.v1.api_pb2 import AuthConfig, Image, ImageSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from crib.client.connection import Connection
    from crib.manifest.plan import ContainerPlan, PodPlan, PullPolicy

    Pull: TypeAlias = Callable[[Connection, str, AuthConfig | None], Awaitable[None]]


class PodImages:
    """Brings a pod's images and writes into its containers' configurations what they decide."""

    def __init__(self, connection: Connection, plan: PodPlan, pull: Pull | None) -> None:
        """Without `pull` every image has to be here, whatever the policies say."""
        self._connection = connection
        self._plan = plan
        self._pull = pull
        self._pulled: set[str] = set()

    async def bring(self) -> None:
        """Every image once. PodFailure names the container whose image cannot be had."""
        for volume in self._plan.volumes:
            if volume.kind == "image":
                image = await self._one(volume.image, volume.pull, f"volume {volume.name}")
                self._mount(volume.image, image)
        for container in self._plan.every_container():
            image = await self._one(container.image, container.pull, f"container {container.name}")
            container.config.image.image = image.id
            apply_user(container, image)

    async def _one(self, name: str, policy: PullPolicy, whose: str) -> Image:
        image = await images.find(self._connection, name)
        if image is not None and (policy != "Always" or name in self._pulled or self._pull is None):
            return image
        if self._pull is None:
            raise PodFailure(
                f"pod {self._plan.label}: {whose}: image {name} is not on this node: crib pull it first"
            )
        if policy == "Never":
            raise PodFailure(
                f"pod {self._plan.label}: {whose}: image {name} is not on this node and its policy is Never"
            )
        await self._pull(self._connection, name, self._auth(name))
        self._pulled.add(name)
        image = await images.find(self._connection, name)
        if image is None:
            raise RuntimeFailure(f"image {name} was pulled but is not on this node")
        return image

    def _auth(self, name: str) -> AuthConfig | None:
        found = credential_for(name, self._plan.credentials)
        if found is None:
            return None
        return AuthConfig(
            username=found.username,
            password=found.password,
            identity_token=found.identity_token,
            registry_token=found.registry_token,
        )

    def _mount(self, name: str, image: Image) -> None:
        for container in self._plan.every_container():
            for mount in container.config.mounts:
                if mount.HasField("image") and mount.image.image == name:
                    mount.image.CopyFrom(ImageSpec(image=image.id, user_specified_image=name))


def apply_user(container: ContainerPlan, image: Image) -> None:
    """Say the image's user where the manifest names none, and check runAsNonRoot, as a kubelet does."""
    context = container.config.linux.security_context
    if not context.HasField("run_as_user"):
        if image.HasField("uid"):
            context.run_as_user.CopyFrom(image.uid)
        elif image.username:
            context.run_as_username = image.username
        else:
            context.run_as_user.value = 0  # an image that names no user runs as root
    if not container.must_not_be_root:
        return
    where = f"container {container.name}: runAsNonRoot"
    if context.run_as_username:
        raise PodFailure(f"{where}: the image's user {context.run_as_username!r} is a name; set runAsUser")
    if context.run_as_user.value == 0:
        raise PodFailure(f"{where}: the image runs as root; set runAsUser")
