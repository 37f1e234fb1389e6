"""The image store: layers on disk, filled by the worker, mounted for containers (port `Images`).

A layer's file is there exactly when the layer is whole and synced, because it is only ever renamed into
place. Which layers an image needs is the caller's knowledge (its records); `sweep` removes the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from crib.backends.images.messages import Endpoint, Import, Pull, TransferLimits
from crib.backends.images.mounts import LayerMounts
from crib.backends.images.staging import Staging, worker_user
from crib.backends.images.worker import ImageWorker
from crib.host import files
from crib.model.errors import Broken, InvalidRequest
from crib.model.facts import LayerMounting
from crib.model.ids import Digest, is_digest
from crib.model.image import FetchedImage, FilesystemUsage, ImageReference, Layer, parse_reference
from crib.model.paths import Paths
from crib.model.settings import ImageSettings
from crib.ports import ProgressSink
from crib.wire.oci_image import MAX_LAYERS, oci_architecture

_log = logging.getLogger(__name__)

_SUFFIX = ".erofs"
_USAGE_SECONDS = 10.0
_DOCKER_HUB = {"docker.io": "registry-1.docker.io"}


class LayerStore:
    """Layers of one data root. Made on the loop's thread, after the probe, before anything is pulled."""

    def __init__(self, paths: Paths, settings: ImageSettings, mounting: LayerMounting) -> None:
        self._paths = paths
        self._settings = settings
        self._architecture = oci_architecture(os.uname().machine)
        os.makedirs(paths.layers, mode=0o700, exist_ok=True)
        self.mounts = LayerMounts(paths, mounting)
        """Where containers get their layers from."""
        self._staging = Staging(paths, worker_user(settings.worker_user))
        self._worker = ImageWorker(self._staging)
        self._changing = asyncio.Lock()
        self._wanted: Counter[Digest] = Counter()
        self._writable: tuple[float, FilesystemUsage] | None = None

    @property
    def mounting(self) -> LayerMounting:
        """How layers are mounted here."""
        return self.mounts.mounting

    @property
    def worker_pid(self) -> int | None:
        """The image worker, while there is one."""
        return self._worker.pid

    async def pull(self, reference: ImageReference, progress: ProgressSink) -> FetchedImage:
        """Resolve and fetch an image; layers that are on disk are not fetched again.

        NotFound, Unavailable (reason RegistryUnavailable) and Broken name every place that was asked.
        """
        present = tuple(await asyncio.to_thread(self._listed))
        message = Pull(
            self._worker.new_number(),
            reference.name,
            reference.repository,
            reference.tag,
            reference.digest,
            endpoints(reference.registry, self._settings),
            self._architecture,
            present,
            self._limits(),
        )
        with self._holding(present):
            images = await self._worker.run(message, f"pull of {reference}", progress)
            if len(images) != 1:
                raise Broken(f"pull of {reference}: image worker answered with {len(images)} images")
            if reference.digest and images[0].manifest_digest != reference.digest:
                raise Broken(f"pull of {reference}: image worker answered with {images[0].manifest_digest}")
            return (await self._adopt(images))[0]

    async def import_archive(self, path: str, progress: ProgressSink) -> Sequence[FetchedImage]:
        """Read an OCI layout directory, an OCI archive or a `docker save` archive.

        InvalidRequest says what is wrong with it; nothing of it stays then.
        """
        present = await asyncio.to_thread(self._listed)
        fd, directory = await asyncio.to_thread(_open_archive, path)
        message = Import(
            self._worker.new_number(), directory, self._architecture, tuple(present), self._limits()
        )
        with self._holding(present):
            try:
                images = await self._worker.run(message, f"import of {path}", progress, fd)
            finally:
                if directory:
                    os.close(fd)
            return await self._adopt(images)

    async def sweep(self, keep: Collection[Digest]) -> Sequence[Digest]:
        """Remove the layers that are neither in `keep` nor used by a pull under way; says which are gone."""
        kept = frozenset(keep)
        async with self._changing:
            listed = await asyncio.to_thread(self._listed)
            doomed = [layer for layer in listed if layer not in kept and layer not in self._wanted]
            unmounted = await self.mounts.unmount(doomed)
            await asyncio.to_thread(self._remove, unmounted)
            if self._worker.pid is None:
                # Here and not in a thread: no worker can start in between and find its files gone.
                self._staging.prepare()
            return unmounted

    async def usage(self) -> FilesystemUsage:
        """Space that the layers take."""
        return await asyncio.to_thread(_usage, self._paths.layers)

    async def writable_usage(self) -> FilesystemUsage:
        """Space that the containers' writable layers take; measured at most every ten seconds."""
        if self._writable is None or time.monotonic() - self._writable[0] > _USAGE_SECONDS:
            usage = await asyncio.to_thread(_usage, self._paths.writable_layers)
            self._writable = time.monotonic(), usage
        return self._writable[1]

    async def dismantle(self) -> None:
        """Unmount every layer, and the directory that they are mounted below."""
        await self.mounts.unmount_all()

    async def close(self) -> None:
        """End the worker; layers stay mounted for the containers that run on."""
        await self._worker.close()

    def _limits(self) -> TransferLimits:
        settings = self._settings
        return TransferLimits(
            block_size=self.mounting.block_size,
            parallel_layers=settings.parallel_layers,
            stall_timeout=settings.stall_timeout,
            max_layer_bytes=settings.max_layer_bytes,
            max_ratio=settings.max_ratio,
        )

    def _listed(self) -> list[Digest]:
        names = (
            name.removesuffix(_SUFFIX) for name in os.listdir(self._paths.layers) if name.endswith(_SUFFIX)
        )
        return [Digest(f"sha256:{name}") for name in names if is_digest(f"sha256:{name}")]

    def _remove(self, layers: Sequence[Digest]) -> None:
        for layer in layers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._paths.layer_file(layer))
        for name in os.listdir(self._paths.layers):
            # Of an adoption that a crash cut short: `sweep` and `_adopt` never run at once.
            if name.startswith(".") and name.endswith(".incoming"):
                files.remove_tree(f"{self._paths.layers}/{name}")

    @contextlib.contextmanager
    def _holding(self, layers: Collection[Digest]) -> Iterator[None]:
        """Keep `sweep` away from layers that a request counts on."""
        self._wanted.update(layers)
        try:
            yield
        finally:
            self._wanted.subtract(layers)
            for layer in layers:
                if self._wanted[layer] <= 0:
                    del self._wanted[layer]

    async def _adopt(self, images: Sequence[FetchedImage]) -> list[FetchedImage]:
        for image in images:
            _check(image)
        layers = [layer for image in images for layer in image.layers]
        async with self._changing:
            try:
                sizes = await asyncio.to_thread(self._staging.adopt, layers)
            except OSError as error:
                raise Broken(f"layers could not be taken over into {self._paths.layers}: {error}") from error
        return [_with_sizes(image, sizes) for image in images]


def endpoints(registry: str, settings: ImageSettings) -> tuple[Endpoint, ...]:
    """Where to pull from, in order: the registry's mirrors, then the registry itself.

    Plain http only where the settings name the registry as insecure, and on the loopback interface.
    """
    host = _DOCKER_HUB.get(registry, registry)
    plain = registry in settings.insecure or host in settings.insecure or _is_loopback(host)
    own = f"{'http' if plain else 'https'}://{host}"
    return tuple(Endpoint(url) for url in (*settings.mirrors.get(registry, ()), own))


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _open_archive(path: str) -> tuple[int, bool]:
    """The archive's descriptor, and whether it is a directory."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidRequest(f"archive {path} cannot be opened: {error.strerror}", field="path") from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return fd, stat.S_ISDIR(mode)
    os.close(fd)
    raise InvalidRequest(f"archive {path} is neither a file nor a directory", field="path")


def _check(image: FetchedImage) -> None:
    """Refuse what a sane worker would not say: everything here may become part of a path or a record."""
    digests = [
        image.id,
        *(layer.diff_id for layer in image.layers),
        *(layer.blob_digest for layer in image.layers),
    ]
    if image.manifest_digest is not None:
        digests.append(image.manifest_digest)
    wrong = next((digest for digest in digests if not is_digest(digest)), None)
    if wrong is not None or len(image.layers) > MAX_LAYERS:
        raise Broken(f"image worker answered with {len(image.layers)} layers and the digest {wrong!r}")
    for name in image.names:
        try:
            parse_reference(name)
        except InvalidRequest as error:
            raise Broken(f"image worker answered with a bad name: {error}") from error


def _with_sizes(image: FetchedImage, sizes: dict[Digest, int]) -> FetchedImage:
    layers = tuple(Layer(layer.diff_id, layer.blob_digest, sizes[layer.diff_id]) for layer in image.layers)
    return replace(image, layers=layers)


def _usage(path: str) -> FilesystemUsage:
    usage = files.disk_usage(path)
    return FilesystemUsage(path, usage.bytes, usage.inodes, time.time_ns())
