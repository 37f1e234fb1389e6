"""What a restored container has of its checkpoint: CRIU's images, and the changes in its root.

Processes that reach nothing else take them from the checkpoint (`checkpoint_main`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

import msgspec

from crib.backends.bundle.rootfs import mount_root
from crib.backends.confined_programs import ANSWER_ERRORS, run_confined
from crib.backends.environment import SharedLayers
from crib.backends.failures import trying
from crib.backends.images.archives import close_all, opened_archive
from crib.backends.oci.checkpoint_files import last_reasons
from crib.backends.oci.checkpoint_main import CHANGES, IMAGES, INSPECT, MAX_ANSWER, PROCESS, CheckpointAnswer
from crib.backends.oci.environment import OciEnvironment
from crib.host import libc, mounts
from crib.host.files import remove_tree
from crib.host.namespaces import run_in_namespace_async
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, Exhausted, InvalidRequest
from crib.model.ids import ContainerId
from crib.ports.checkpoints import CheckpointFacts, CheckpointSource
from crib.wire import checkpoint_archive as wire
from crib.wire import oci_runtime as oci

T = TypeVar("T")

FIELD = "image.image"
"""Of the request: there it says which checkpoint."""
WAITS, BEGUN = "waits", "begun"
"""See BundleNote.restore."""
_READER = "crib.backends.oci.checkpoint_main"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Restores:
    """Reads checkpoints for containers that are to be made from them."""

    def __init__(self, environment: OciEnvironment, layers: SharedLayers) -> None:
        self._env = environment
        self._paths = environment.paths
        self._layers = layers

    async def inspect(self, source: CheckpointSource) -> CheckpointFacts:
        """See Checkpoints."""
        what = f"checkpoint {source.path or source.layers[-1]}"
        with trying(what):
            empty = await OURS.run(what, partial(tempfile.mkdtemp, dir=self._paths.state))
            try:
                async with self._opened(source) as fd, _directory(empty) as root:
                    answer = await self._read(what, INSPECT, fd, root)
            finally:
                await OURS.run(what, os.rmdir, empty)
        names = (answer.image, answer.image_ref, answer.image_name)
        return CheckpointFacts(answer.name, tuple(name for name in names if name))

    async def prepare(self, record: ContainerRecord, source: CheckpointSource) -> None:
        """The images, and the changes in its writable layer. What fails is cleared away by its delete."""
        what = f"create of container {record.id} from checkpoint {record.restored_from}"
        images = self._paths.restored_images(record.id)
        with trying(what):
            layers = await self._layers.acquire(record.layers)
            async with self._opened(source) as fd:
                await self._ours(record.id, self._check_space, what, fd)
                await self._ours(record.id, os.makedirs, images, 0o700)
                async with _directory(images) as root:
                    await self._read(what, IMAGES, fd, root)
                bundle_root = self._paths.rootfs(record.id)
                await self._ours(record.id, partial(os.makedirs, bundle_root, exist_ok=True))
                await self._ours(record.id, mount_root, self._paths, record.id, layers)
                try:
                    async with _directory(bundle_root) as root:
                        await self._read(what, CHANGES, fd, root)
                finally:
                    await self._ours(record.id, mounts.unmount, bundle_root)

    async def compare(self, record: ContainerRecord, source: CheckpointSource, made: oci.Process) -> None:
        """InvalidRequest when the process of a checkpoint is another than the container would have."""
        what = f"checkpoint {source.path}"
        images = self._paths.restored_images(record.id)
        with trying(what):
            async with self._opened(source) as fd, _directory(images) as root:
                saved = (await self._read(what, PROCESS, fd, root)).process
        if saved is not None and (differences := saved.differences(wire.saved_process(made))):
            text = f"{what}: its process is another than the container's: {differences} of them differ"
            raise InvalidRequest(text, field=FIELD)

    async def forget(self, container: ContainerId) -> None:
        """Its processes run, and nobody needs their images any more."""
        with trying(f"removing the checkpoint of container {container}"):
            await self._ours(container, remove_tree, self._paths.restored_images(container))

    async def reasons(self, container: ContainerId) -> str:
        """What CRIU says of a restore that failed; empty if nothing."""
        log = f"{self._paths.container(container)}/restore.log"
        return await self._ours(container, last_reasons, log)

    @contextlib.asynccontextmanager
    async def _opened(self, source: CheckpointSource) -> AsyncIterator[int]:
        if source.path:
            async with opened_archive(source.path, field=FIELD) as (fd, is_directory):
                if is_directory:
                    raise InvalidRequest(f"checkpoint {source.path} is a directory", field=FIELD)
                yield fd
            return
        if len(source.layers) != 1:
            raise InvalidRequest(
                f"the checkpoint image has {len(source.layers)} layers, not one", field=FIELD
            )
        (directory,) = await self._layers.acquire(source.layers)
        async with _directory(directory) as fd:
            yield fd

    def _check_space(self, what: str, fd: int) -> None:
        """Nothing in a checkpoint is compressed, so that it makes no more than it is."""
        size = os.fstat(fd).st_size
        space = os.statvfs(self._paths.writable_layers)
        if size > space.f_bavail * space.f_frsize:
            raise Exhausted(f"{what}: {size} bytes are needed in {self._paths.writable_layers}")

    async def _read(self, what: str, task: str, source_fd: int, root_fd: int) -> CheckpointAnswer:
        arguments, limit = (task, str(source_fd), str(root_fd)), self._env.settings.verb_timeout
        descriptors = (source_fd, root_fd)
        try:
            said = await run_confined(_READER, arguments, descriptors, seconds=limit, most=MAX_ANSWER)
            answer = msgspec.msgpack.decode(said, type=CheckpointAnswer)
        except ANSWER_ERRORS as error:
            raise Broken(f"{what}: {error}") from error
        if answer.unsound:
            raise InvalidRequest(f"{what}: {answer.error}", field=FIELD)
        if answer.error:
            raise (Exhausted if answer.full else Broken)(f"{what}: {answer.error}")
        return answer

    async def _ours(self, container: ContainerId, work: Callable[..., T], *args: object) -> T:
        job = Job(f"the checkpoint of container {container}", container, self._env.settings.verb_timeout)
        return await OURS.run(job, work, *args)


@contextlib.asynccontextmanager
async def keeping_hostname(namespace: str) -> AsyncIterator[None]:
    """CRIU gives the UTS namespace of a pod the names that the checkpoint has for its own."""
    try:
        name = await run_in_namespace_async(namespace, "uts", socket.gethostname)
    except FileNotFoundError:  # the host's, which CRIU does not touch
        yield
        return
    try:
        yield
    finally:
        await run_in_namespace_async(namespace, "uts", partial(libc.sethostname, name))


@contextlib.asynccontextmanager
async def _directory(path: str) -> AsyncIterator[int]:
    """Open, in our own roots."""
    opened: list[int] = []
    await OURS.run(f"opening {path}", lambda: opened.append(os.open(path, _DIRECTORY)))
    try:
        yield opened[0]
    finally:
        close_all(opened)
