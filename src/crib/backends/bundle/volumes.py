"""Volumes that the runtime brings itself: images mounted as volumes (KEP-4639), and what an image declares as
VOLUME (OCI image specification, config.md).

An image volume is the image's layers without a writable one, mounted below the container's bundle and gone
with it. A declared volume is a directory beside the container's writable layer that starts as what the image
holds there. Every path of an image is resolved by the kernel inside that image (openat2(2), RESOLVE_IN_ROOT).
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence

from crib.backends.bundle.host_resources import real_sources
from crib.backends.bundle.id_maps import PodIdMap, bind_id_mapped, id_mapped_layers, release_below
from crib.backends.bundle.labels import relabel_volume
from crib.backends.bundle.mount_targets import place_in_root
from crib.backends.environment import SharedLayers
from crib.backends.failures import failure, trying, why
from crib.host import mounts
from crib.host.directories import make_directory
from crib.host.files import open_in_root, open_root
from crib.host.tree_copies import CopyBudget, CopyLimits, TooMuch, copy_tree
from crib.model.container import ContainerRecord, Mount, MountPropagation
from crib.model.errors import (
    IMAGE_VOLUME_MOUNT_FAILED,
    CribError,
    Exhausted,
    InvalidRequest,
    Unavailable,
)
from crib.model.ids import ContainerId, ImageId
from crib.model.image import ImageConfig
from crib.model.paths import Paths
from crib.model.sandbox import SandboxRecord
from crib.model.settings import Settings
from crib.ocispec.inputs import ContainerInputs, DeclaredVolume

MAX_DECLARED = 128
_COPY_BYTES = 16 << 30
_COPY_ENTRIES = 1_000_000
_COPY_SECONDS = 120.0
"""For all declared volumes of a container together."""
_NEVER_OVER = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""An image may not lay its own files over these: labels and masks are set through them (CVE-2019-16884)."""


Stacks = tuple[Sequence[str], ...]
"""Layers of image volumes, lowest first, an image each, in the order in which the record first names them."""


class Volumes:
    """The volume side of one handler's containers. All but `acquire` may block."""

    def __init__(self, paths: Paths, layers: SharedLayers, settings: Settings) -> None:
        self._paths = paths
        self._layers = layers
        self._declared = settings.image_volumes
        self._min_free = settings.images.transfer.min_free

    async def acquire(self, record: ContainerRecord) -> Stacks:
        """Mount the layers of the record's image volumes, each image's once however many mounts are of it."""
        stacks: dict[ImageId, Sequence[str]] = {}
        try:
            for volume in record.image_volumes:
                if volume.image_id not in stacks:
                    stacks[volume.image_id] = await self._layers.acquire(volume.layers)
        except CribError as error:
            text, field = error.problem, error.field
            raise type(error)(text, field=field, reason=IMAGE_VOLUME_MOUNT_FAILED) from error
        return tuple(stacks.values())

    def mount_images(
        self, container: ContainerId, stacks: Stacks, idmap: PodIdMap | None, label: str
    ) -> None:
        """Mount what `acquire` gave, labelled for SELinux; errors have the reason ImageVolumeMountFailed."""
        if not stacks:
            return
        top = self._paths.image_volumes(container)
        empty = f"{top}/empty"  # overlayfs wants two lower directories
        make_directory(empty, 0o755)
        for number, layers in enumerate(stacks):
            target = f"{top}/{number}"
            make_directory(target, 0o755)
            what = f"image volume {number} of container {container}"
            with (
                trying(what, reason=IMAGE_VOLUME_MOUNT_FAILED),
                id_mapped_layers(idmap, layers, f"{top}/layers") as seen,
            ):
                lower = tuple(reversed(seen)) if len(seen) > 1 else (*seen, empty)
                mounts.perform(mounts.Overlay(target, lower, read_only=True, context=label))

    def sources(self, record: ContainerRecord, sandbox: SandboxRecord) -> tuple[str, ...]:
        """What is mounted for each of `config.mounts` (ContainerInputs.mount_sources); only reads."""
        found = real_sources(record.config)
        if sandbox.config.user_namespace is not None:
            for position, mount in enumerate(record.config.mounts):
                if _is_shifted(mount):
                    found[position] = self._shifted(record.id, position)
        for position, path in image_volume_sources(self._paths, record).items():
            found[position] = path
        return tuple(found)

    def contents(self, record: ContainerRecord, root: str, inputs: ContainerInputs) -> dict[str, str]:
        """Where the content of sources is that `prepare` and `fill` will make (`mount_targets.Placed`)."""
        shifted = {
            source: mount.host_path
            for source, mount in zip(inputs.mount_sources, record.config.mounts, strict=True)
            if _is_shifted(mount)
        }
        return shifted | {volume.source: f"{root}{volume.destination}" for volume in inputs.declared_volumes}

    def prepare(self, record: ContainerRecord, idmap: PodIdMap | None, label: str) -> None:
        """Label and id-map the host paths, which are there by now."""
        sources = real_sources(record.config)
        for position, mount in enumerate(record.config.mounts):
            source = sources[position]
            if mount.selinux_relabel and source:
                relabel_volume(source, label, f"mounts[{position}].selinux_relabel")
            if idmap is not None and _is_shifted(mount):
                both_ways = mount.propagation == MountPropagation.BIDIRECTIONAL
                target = self._shifted(record.id, position)
                with trying(f"id-mapped mount of {mount.host_path}"), _shifting(mount.host_path, position):
                    bind_id_mapped(idmap, source, target, propagates=both_ways)

    def let_go(self, container: ContainerId) -> None:
        """Unmount the id-mapped sources, of which the runtime has its own by now.

        Else they would keep a volume's file system busy when the kubelet has unmounted it.
        """
        release_below(f"{self._paths.image_volumes(container)}/shifted")

    def _shifted(self, container: ContainerId, position: int) -> str:
        return f"{self._paths.image_volumes(container)}/shifted/{position}"

    def declared(self, record: ContainerRecord, root: str, image: ImageConfig) -> tuple[DeclaredVolume, ...]:
        """See `find_declared_volumes`; none unless the setting is `bind`."""
        if self._declared != "bind":
            return ()
        return find_declared_volumes(self._paths, record, root, image.volumes)

    def plain(self, image: ImageConfig) -> Sequence[str]:
        """The VOLUMEs that are only made as directories of the root."""
        return image.volumes if self._declared == "mkdir" else ()

    def fill(self, root: str, volumes: Sequence[DeclaredVolume], label: str) -> None:
        """Make the directories and copy up what the image holds there; takes long when it is much."""
        with trying(f"volumes of the image in {root}"):
            make_declared_volumes(root, volumes, self._min_free)
        for volume in volumes:
            relabel_volume(volume.source, label, "image")


@contextlib.contextmanager
def _shifting(path: str, position: int) -> Iterator[None]:
    """InvalidRequest in place of the kernel's EINVAL, which only says that an argument is invalid."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        where = f"{path} is on a file system, or has one below it, that cannot show other ids"
        text = f"{where} (id-mapped mount), which a pod with a user namespace needs"
        raise InvalidRequest(text, field=f"mounts[{position}].host_path") from error


def _is_shifted(mount: Mount) -> bool:
    return bool(mount.host_path and (mount.uid_mappings or mount.gid_mappings))


def image_volume_sources(paths: Paths, record: ContainerRecord) -> dict[int, str]:
    """Where on the host the image volumes lie, by position in `config.mounts`: the sub path inside its image.

    The image must be mounted; InvalidRequest, naming the field, for a sub path that is not there or is
    neither a directory nor a regular file.
    """
    numbers: dict[ImageId, int] = {}
    found = {}
    for volume in record.image_volumes:
        number = numbers.setdefault(volume.image_id, len(numbers))
        mount = record.config.mounts[volume.mount]
        top = f"{paths.image_volumes(record.id)}/{number}"
        field = f"mounts[{volume.mount}].image_sub_path"
        found[volume.mount] = _resolve(top, mount.image_sub_path, mount.image, field)
    return found


def _resolve(top: str, sub_path: str, image: str, field: str) -> str:
    if not os.path.isdir(top):  # an explanation: nothing is mounted for it
        return posixpath.join(top, sub_path) if sub_path else top
    root_fd = open_root(top)
    try:
        fd = open_in_root(root_fd, sub_path or ".", os.O_PATH)
    except OSError as error:
        what = f"{sub_path!r} cannot be reached in image {image}"
        raise failure(what, error, field=field, reason=IMAGE_VOLUME_MOUNT_FAILED) from error
    finally:
        os.close(root_fd)
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            text = f"{sub_path!r} of image {image} is neither a directory nor a regular file"
            raise InvalidRequest(text, field=field, reason=IMAGE_VOLUME_MOUNT_FAILED)
        # Nobody can change what is below a read-only overlay, so the name stays what it is now.
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def find_declared_volumes(
    paths: Paths, record: ContainerRecord, root: str, volumes: Iterable[str]
) -> tuple[DeclaredVolume, ...]:
    """Which of the image's VOLUMEs get a directory, and where in the root they really are; only reads.

    Left out are the root itself, what a mount of the pod is at or above, and what lies over the file systems
    and files that every container has.
    """
    listed = list(dict.fromkeys(volumes))
    check_declared(listed)
    pod = [mount.container_path for mount in record.config.mounts]
    found: dict[str, DeclaredVolume] = {}
    root_fd = open_root(root)
    try:
        for number, text in enumerate(listed):
            path = posixpath.normpath(f"/{text.lstrip('/')}")
            try:
                place = place_in_root(root_fd, path)
            except OSError as error:
                raise _unusable(path, error) from error
            taken = any(_is_below(one, at) for one in (path, place) for at in pod)
            if place == "/" or taken or any(_is_below(place, at) for at in _NEVER_OVER):
                continue
            source = f"{paths.declared_volumes(record.id)}/{number}"
            found.setdefault(place, DeclaredVolume(place, source))
    finally:
        os.close(root_fd)
    return tuple(found.values())


def check_declared(volumes: Sequence[str]) -> None:
    """Bounds that hold whatever is done with them."""
    if len(volumes) > MAX_DECLARED:
        text = f"the image declares {len(volumes)} volumes, more than {MAX_DECLARED}"
        raise InvalidRequest(text, field="image")
    for text in volumes:
        if not text or "\0" in text:
            raise InvalidRequest(f"the image declares the volume {text!r}", field="image")


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def _unusable(path: str, error: OSError) -> CribError:
    return failure(f"volume {path} of the image cannot be used", error, field="image")


def make_declared_volumes(root: str, volumes: Sequence[DeclaredVolume], min_free: int = 0) -> None:
    """Make the directories and copy up what the image holds there. Blocks, for long when it is much.

    What was copied until an error goes with the container.
    """
    if not volumes:
        return
    limits = CopyLimits(_COPY_BYTES, _COPY_ENTRIES, _COPY_SECONDS, min_free)
    budget = CopyBudget(limits)
    root_fd = open_root(root)
    try:
        owner = os.fstat(root_fd)
        for volume in volumes:
            make_directory(volume.source, 0o755)
            try:
                _copy_up(root_fd, volume, owner, budget)
            except TooMuch as error:
                raise _too_much(volume, error) from error
    finally:
        os.close(root_fd)


def _too_much(volume: DeclaredVolume, error: TooMuch) -> CribError:
    text = f"volume {volume.destination} of the image cannot be copied: {why(error)}"
    if error.errno == errno.ENOSPC:
        return Exhausted(f"{text} (images.min_free)")
    if error.errno == errno.ETIME:
        return Unavailable(text)
    without = 'image_volumes = "mkdir" in the configuration does without'
    return InvalidRequest(f"{text}; {without}", field="image")


def _copy_up(root_fd: int, volume: DeclaredVolume, owner: os.stat_result, budget: CopyBudget) -> None:
    target_fd = os.open(volume.source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            source_fd = open_in_root(root_fd, volume.destination, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise _unusable(volume.destination, error) from error
            os.fchown(target_fd, owner.st_uid, owner.st_gid)
            os.fchmod(target_fd, 0o755)
            return
        try:
            copy_tree(source_fd, target_fd, budget)
        finally:
            os.close(source_fd)
    finally:
        os.close(target_fd)
