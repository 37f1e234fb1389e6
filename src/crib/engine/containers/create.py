"""CreateContainer: a root, an OCI spec, a monitor, and a first process that waits to be started.

look up   a container of the same name (joined, returned, or refused); the image, those of image volumes, the
          policy's word on them, the sandbox (READY), the container whose processes this one is to see
intend    row CREATING, holding the layers of these images from now on
act       the handler's containers.create, which has node plugins change what it is about to make
report    row CREATED; event CREATED
✗         teardown_container: row gone, or UNKNOWN with its reason if that failed too; a pod whose
          namespaces or infra process turn out to be gone is NOT_READY from now on
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

from crib.engine.admission import AdmittedJoins
from crib.engine.containers.restored import FindRestored
from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.hooks import container_view
from crib.engine.identity import container_differences
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.policy import PolicyGuard
from crib.engine.losses import notice_loss
from crib.engine.retries import MAX_LEFT
from crib.engine.timeline import SandboxTimeline
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState, ImageVolume, Mount
from crib.model.edits import ContainerEdits
from crib.model.errors import (
    IMAGE_VOLUME_MOUNT_FAILED,
    AlreadyExists,
    Exhausted,
    InvalidRequest,
    NotFound,
    WrongState,
    below,
)
from crib.model.events import EventType
from crib.model.ids import ContainerId, ImageId, SandboxId, new_container_id
from crib.model.image import ImageRecord
from crib.model.lifecycle import ContainerVerb, SandboxVerb, is_listed, move_container, move_sandbox
from crib.model.plugin_limits import changed
from crib.model.sandbox import NamespaceMode, SandboxRecord
from crib.model.signals import stop_signal
from crib.ports.checkpoints import CheckpointSource
from crib.ports.containers import CreateRequest
from crib.tasks.keeper import current_work

_TARGET = "linux.security_context.namespace_options.target_id"


class CreateContainer:
    """The verb; one object for the daemon's life, as it knows which creations are under way."""

    def __init__(self, core: Core, catalogue: Catalogue, policy: PolicyGuard) -> None:
        self._core = core
        self._catalogue = catalogue
        self._policy = policy
        self._restored = FindRestored(core, catalogue, policy)
        self._joins: AdmittedJoins[ContainerId] = AdmittedJoins(
            core.keeper, "create container", core.admission
        )
        self._unclaimed: set[ContainerId] = set()
        """Made after their callers had gone: nobody knows their ids."""

    async def __call__(
        self, sandbox_text: str, config: ContainerConfig, source: CheckpointSource | None = None
    ) -> ContainerId:
        """Create a container; who asks for the same one joins the work that is under way, or gets its id.

        `source`: the checkpoint that it is made from, if that is not what the image of the request names.

        AlreadyExists when something else is asked for under the same name and attempt (`engine.identity`).
        """
        core = self._core
        sandbox = core.sandbox(sandbox_text)
        key = (sandbox.id, config.name, config.attempt)
        known = self._joins.running(key)
        if isinstance(known, ContainerConfig):
            _refuse_difference(config, known)
        elif (row := core.containers.named(key)) is not None and _is_made(row):
            _refuse_difference(config, row.config)
            self._unclaimed.discard(row.id)
            return row.id
        self._give_up_earlier(sandbox.id, config)
        claim = core.claim(sandbox, config.name)
        return await self._joins.admitted(
            key, config, claim, lambda: self._create(sandbox.id, config, source), sandbox.id
        )

    def _give_up_earlier(self, sandbox_id: SandboxId, config: ContainerConfig) -> None:
        """End creates of earlier attempts whose callers have gone, and remove what they made.

        A kubelet's next try is the next attempt where the one that it gave up has a log, or is in the lists
        (kuberuntime_container.go, startContainer).
        """
        core = self._core
        for key in self._joins:  # one may wait for its image's policy, and have no row yet
            match key:
                case (pod, name, int(attempt)) if (pod, name) == (sandbox_id, config.name):
                    if attempt < config.attempt:
                        self._joins.end_abandoned(key)
        for row in core.containers_of(sandbox_id):
            if row.config.name != config.name or row.config.attempt >= config.attempt:
                continue
            if row.id in self._unclaimed and row.state is ContainerState.CREATED:
                core.keeper.start(f"remove unclaimed container {row.id}", teardown_container(core, row))

    async def _create(
        self, sandbox_id: SandboxId, config: ContainerConfig, source: CheckpointSource | None
    ) -> ContainerId:
        core = self._core
        core.refuse_if_faulty()
        if (known := core.containers.named((sandbox_id, config.name, config.attempt))) is not None:
            await teardown_container(core, known)  # of an earlier try whose own teardown failed
        await notice_loss(core, sandbox_id)  # its watch may be about to report the same
        restored = await self._restored(core.sandbox(sandbox_id), config, source)
        plain = config if restored is None else restored.plain(config)
        image = await self._accepted(plain)
        sandbox = core.sandbox(sandbox_id)
        move_sandbox(sandbox, SandboxVerb.CREATE_CONTAINER)
        self._refuse_crowd(sandbox_id)
        self._check_target(sandbox_id, config)
        record = self.draft(sandbox, plain, image)
        if restored is not None:
            record = replace(record, config=config, restored_from=restored.origin)
        for used in record.held_images:
            self._catalogue.use(used)
        core.containers.put(record)
        if (work := current_work()) is not None:
            work.of = record.id
        stage = core.timeline.of(sandbox_id)
        with stage("CreateContainer", config.name):
            try:
                # Held while it is made: a stop of the sandbox waits, and then finds a whole container.
                async with core.locks.of(record.id):
                    core.refuse_if_faulty()
                    async with core.plugins.creation(record, sandbox) as creation:
                        request = CreateRequest(
                            *(record, sandbox, image.config),
                            layers=image.layers,
                            restore=restored.source if restored is not None else None,
                            adjust=creation.adjust,
                        )
                        made = _edited(await self._make(request, stage), creation.edits)
                        state = move_container(made, ContainerVerb.CREATE)
                        record = core.containers.put(replace(made, state=state))
                        await creation.created(record)
                    core.refuse_if_faulty()
            except BaseException as error:
                with suppress(Exception):  # the row stays and says why; the caller gets the first error
                    await teardown_container(core, record)
                if isinstance(error, NotFound):
                    # A layer, perhaps: then the image must not be said to be here, or nobody would pull it.
                    with suppress(Exception):
                        await self._catalogue.look(core.ports.images)
                with suppress(Exception):
                    await notice_loss(core, sandbox_id)
                raise
        if self._joins.is_abandoned((sandbox_id, config.name, config.attempt)):
            self._unclaimed = {row for row in self._unclaimed if core.containers.get(row)} | {record.id}
        core.tell(EventType.CREATED, record.id, sandbox_id)
        return record.id

    async def _make(self, request: CreateRequest, stage: SandboxTimeline) -> ContainerRecord:
        record, sandbox = request.record, request.sandbox
        view = partial(container_view, record, sandbox)
        async with self._core.hooks.around("create_container", view, stage):
            created = await self._core.handler_of(sandbox).containers.create(request, stage)
        return replace(
            record,
            process=created.process,
            monitor=created.monitor,
            user=created.user,
            stop_signal=created.stop_signal or record.stop_signal,
        )

    def _refuse_crowd(self, sandbox_id: SandboxId) -> None:
        """A kubelet tries forever: what hangs must not pile up with each try."""
        left = [row for row in self._core.containers_of(sandbox_id) if row.id in self._core.retries.objects()]
        if len(left) >= MAX_LEFT:
            text = f"pod sandbox {sandbox_id} has {len(left)} containers that cannot be removed"
            raise Exhausted(f"{text}, one of them {left[0].id}: {left[0].message}")

    def _check_target(self, sandbox_id: SandboxId, config: ContainerConfig) -> None:
        """Whose processes the container is to see: those of a running container of its own pod only."""
        options = config.security.namespaces
        if options.pid != NamespaceMode.TARGET:
            return
        target = self._core.containers.get(options.target_id)
        if target is None or not is_listed(target):
            raise NotFound(f"there is no container {options.target_id!r}", field=_TARGET)
        if target.sandbox_id != sandbox_id:
            raise InvalidRequest(
                f"container {target.id} is of pod sandbox {target.sandbox_id}, not of {sandbox_id}",
                field=_TARGET,
            )
        if target.state is not ContainerState.RUNNING:
            raise WrongState(f"container {target.id} is not running: it is {target.state}", field=_TARGET)

    async def _accepted(self, config: ContainerConfig) -> ImageRecord:
        """The image; the policy has accepted it and all of image volumes. From here to the row nothing may
        wait.
        """
        accepted: set[tuple[ImageId, str]] = set()
        while True:
            image = usable_image(self._catalogue.find(config.image), config)
            wanted = [(image, config.user_specified_image or config.image)]
            for mount, found in self._volume_images(config).values():
                wanted.append((found, mount.user_specified_image or mount.image))
            unseen = [(found, name) for found, name in wanted if (found.id, name) not in accepted]
            if not unseen:
                return image
            for found, name in unseen:
                await self._policy.before_run(found, name)
                accepted.add((found.id, name))

    def _volume_images(self, config: ContainerConfig) -> dict[int, tuple[Mount, ImageRecord]]:
        """The mounts that are of an image and that image, by position."""
        volumes = {}
        for position, mount in enumerate(config.mounts):
            if not mount.image:
                continue
            field = f"mounts[{position}].image"
            with below(f"mounts[{position}]"):
                found = self._catalogue.find(mount.image)
            if found is None:
                text = f"image {mount.image!r} is not on this node: pull it first"
                raise NotFound(text, field=field, reason=IMAGE_VOLUME_MOUNT_FAILED)
            if not found.layers:
                text = f"image {mount.image!r} has no layers: there is nothing to mount"
                raise InvalidRequest(text, field=field, reason=IMAGE_VOLUME_MOUNT_FAILED)
            volumes[position] = mount, found
        return volumes

    def draft(self, sandbox: SandboxRecord, config: ContainerConfig, image: ImageRecord) -> ContainerRecord:
        """The record that a creation begins with. InvalidRequest for what the sandbox does not allow."""
        if config.security.privileged and not sandbox.config.security.privileged:
            raise InvalidRequest(
                f"cannot be set: pod sandbox {sandbox.id} is not privileged",
                field="linux.security_context.privileged",
            )
        log_path = ""
        if config.log_path:
            if not sandbox.config.log_directory:
                raise InvalidRequest(
                    f"is {config.log_path!r}, but the pod has no log_directory", field="log_path"
                )
            log_path = f"{sandbox.config.log_directory}/{config.log_path}"
        return ContainerRecord(
            id=new_container_id(),
            sandbox_id=sandbox.id,
            config=config,
            state=ContainerState.CREATING,
            created_at=self._core.clock(),
            image_id=image.id,
            image_ref=self._catalogue.reference(image, config.user_specified_image or config.image),
            layers=tuple(layer.diff_id for layer in image.layers),
            log_path=log_path,
            stop_signal=stop_signal(config.stop_signal, image.config.stop_signal),
            resources=config.resources,
            image_volumes=tuple(
                ImageVolume(position, found.id, tuple(layer.diff_id for layer in found.layers))
                for position, (_, found) in self._volume_images(config).items()
            ),
        )


def usable_image(image: ImageRecord | None, config: ContainerConfig) -> ImageRecord:
    """The image that was found for a config, if a container can be made from it."""
    if image is None:
        raise NotFound(f"image {config.image!r} is not on this node: pull it first")
    if not image.layers:
        raise InvalidRequest(
            f"image {config.image!r} has no layers: there is nothing to run", field="image.image"
        )
    return image


def _edited(record: ContainerRecord, edits: tuple[ContainerEdits, ...]) -> ContainerRecord:
    """With what plugins have changed in it, and the limits that are in force by that."""
    resources = record.resources
    for edit in edits:
        resources = changed(resources, edit.resources)
    return replace(record, edits=edits, resources=resources) if edits else record


def _is_made(record: ContainerRecord) -> bool:
    """Whether its name is taken: not by what is half-made or half-gone, which the next try clears away."""
    return is_listed(record) and record.is_made and record.state is not ContainerState.UNKNOWN


def _refuse_difference(wanted: ContainerConfig, known: ContainerConfig) -> None:
    """A name is taken by one container only."""
    differences = container_differences(wanted, known)
    if differences:
        raise AlreadyExists(
            f"container {wanted.name} (attempt {wanted.attempt}) exists in this pod with a different "
            + ", ".join(differences)
        )
