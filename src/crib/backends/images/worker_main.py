"""The image worker: a process without rights that pulls and imports, started and ended by `worker`.

Its working directory is the staging directory, the only place where it may write. It gets requests over a
socket pair and ends when the daemon closes it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
from collections.abc import Callable, Coroutine

from crib.backends.images import archive
from crib.backends.images.documents import FoundImage, FoundLayer
from crib.backends.images.failures import failed
from crib.backends.images.messages import (
    Cancel,
    Channel,
    Done,
    File,
    Import,
    NeedFile,
    Pull,
    Step,
    ToWorker,
    worker_decoder,
)
from crib.backends.images.transfer import FileOrigin, LayerOrigin, LayerTransfers, StreamOrigin
from crib.host import privileges
from crib.model.errors import Unavailable
from crib.model.ids import Digest
from crib.model.image import FetchedImage, Layer, Progress

_MAX_DESCRIPTORS = 4096
_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_IMPORT_LIBRARIES = ("isal.isal_zlib", "isal.igzip_lib", _ZSTD, "traceback")
_PULL_LIBRARIES = ("encodings.idna", "aiohttp", "crib.backends.images.registry")


class _Request:
    """One pull or import under way."""

    def __init__(self, message: Pull | Import, channel: Channel[ToWorker], transfers: LayerTransfers) -> None:
        self._id = message.id
        self._importing = isinstance(message, Import)
        self._have = frozenset(message.have)
        self._limits = message.limits
        self._architecture = message.architecture
        self._channel = channel
        self._transfers = transfers
        self._obtained: list[Digest] = []
        self._files: dict[str, asyncio.Future[int | None]] = {}
        self.task: asyncio.Task[None] | None = None

    async def run(self, job: Coroutine[None, None, tuple[FetchedImage, ...]]) -> None:
        """Do the work and answer; never raises."""
        done = False
        try:
            images = await job
            self._channel.send(Done(self._id, images))
            done = True
        except BaseException as error:  # every end of a request is an answer
            self._channel.send(failed(self._id, error, importing=self._importing))
        finally:
            self._transfers.release(self._obtained, handed_over=done)

    async def pull(self, message: Pull) -> tuple[FetchedImage, ...]:
        """Resolve a reference and fetch what is missing."""
        self._channel.send(Step(self._id, "resolving"))
        try:
            _load(_PULL_LIBRARIES)
        except (ImportError, OSError, LookupError) as error:
            text = f"image worker cannot load what pulls need before its imports are done: {error}"
            raise Unavailable(text) from error
        from crib.backends.images.registry import RegistryClient

        async with RegistryClient(message) as client:
            image = await client.resolve()

            def origin(layer: FoundLayer) -> LayerOrigin:
                assert layer.blob_digest is not None
                return StreamOrigin(client.blob(layer.blob_digest, layer.size))

            return (image.fetched(await self._layers(image, origin)),)

    async def import_archive(self, fd: int | None) -> tuple[FetchedImage, ...]:
        """Read an archive by its descriptor, or a layout directory through the daemon."""
        self._channel.send(Step(self._id, "resolving"))
        source: archive.ArchiveSource
        source = archive.LayoutDirectory(self._open) if fd is None else await archive.open_archive(fd)
        try:
            images = await archive.read_images(source, self._architecture)
            fetched = []
            for image in images:
                extents = {layer.place: await _existing(source, layer.place) for layer in image.layers}

                def origin(layer: FoundLayer, extents: dict[str, archive.Extent] = extents) -> LayerOrigin:
                    return FileOrigin(extents[layer.place].chunks())

                fetched.append(image.fetched(await self._layers(image, origin)))
            return tuple(fetched)
        finally:
            source.close()

    def opened(self, name: str, fd: int | None) -> None:
        """The daemon's answer to a NeedFile."""
        future = self._files.pop(name, None)
        if future is not None and not future.done():
            future.set_result(fd)
        elif fd is not None:
            os.close(fd)

    async def _open(self, name: str) -> int | None:
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._files[name] = future
        self._channel.send(NeedFile(self._id, name))
        return await future

    async def _layers(
        self, image: FoundImage, origin: Callable[[FoundLayer], LayerOrigin]
    ) -> tuple[Layer, ...]:
        """All layers of an image, the largest first so that none is left alone at the end."""
        got: dict[Digest, Layer] = {}
        slots = asyncio.Semaphore(self._limits.parallel_layers)

        async def fetch(layer: FoundLayer) -> None:
            async with slots:
                staged = await self._transfers.obtain(layer, origin(layer), self._limits, self._report)
            got[layer.diff_id] = staged
            self._obtained.append(layer.diff_id)
            self._report(Progress("done", layer.diff_id, layer.size, layer.size))

        missing = {layer.diff_id: layer for layer in image.layers if layer.diff_id not in self._have}
        try:
            async with asyncio.TaskGroup() as group:
                for layer in sorted(missing.values(), key=lambda layer: -layer.size):
                    group.create_task(fetch(layer))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(
            got.get(layer.diff_id) or Layer(layer.diff_id, layer.blob_digest or layer.diff_id, 0)
            for layer in image.layers
        )

    def _report(self, progress: Progress) -> None:
        self._channel.send(
            Step(
                self._id,
                progress.stage,
                progress.layer,
                progress.done,
                progress.total,
                progress.host,
            )
        )


async def _existing(source: archive.ArchiveSource, name: str) -> archive.Extent:
    extent = await source.find(name)
    if extent is None:
        raise archive.ArchiveError(f"archive lacks {name}")
    return extent


class _Worker:
    """All requests of one worker."""

    def __init__(self, sock: socket.socket, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._channel: Channel[ToWorker] = Channel(sock, worker_decoder(), self._take, self._closed)
        self._transfers = LayerTransfers(group)
        self._requests: dict[int, _Request] = {}

    def _take(self, message: ToWorker, fd: int | None) -> None:
        match message:
            case Pull():
                request = self._begin(message)
                self._start(request, request.pull(message))
            case Import():
                request = self._begin(message)
                self._start(request, request.import_archive(fd))
            case Cancel(id=number):
                if (found := self._requests.get(number)) is not None and found.task is not None:
                    found.task.cancel()
            case File(id=number, name=name):
                if (found := self._requests.get(number)) is not None:
                    found.opened(name, fd)
                elif fd is not None:
                    os.close(fd)

    def _begin(self, message: Pull | Import) -> _Request:
        request = _Request(message, self._channel, self._transfers)
        self._requests[message.id] = request
        return request

    def _start(self, request: _Request, job: Coroutine[None, None, tuple[FetchedImage, ...]]) -> None:
        number = next(key for key, value in self._requests.items() if value is request)
        request.task = self._group.create_task(request.run(job))
        request.task.add_done_callback(lambda _: self._requests.pop(number, None))

    def _closed(self, reason: str) -> None:
        # Nobody is left to work for; what is half done lies in the staging directory, which the daemon
        # empties.
        os._exit(0)


async def _serve(sock: socket.socket) -> None:
    async with asyncio.TaskGroup() as group:
        worker = _Worker(sock, group)
        await asyncio.Event().wait()
        del worker


def _load(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)


def main(arguments: list[str]) -> None:
    """Arguments: the socket's descriptor, uid, gid, the daemon's pid, and `pull` to load what pulls need."""
    descriptor, uid, gid, parent = map(int, arguments[:4])
    # Before the rights are gone: Python may lie where only root reads.
    _load(_IMPORT_LIBRARIES)
    if arguments[4:] == ["pull"]:
        _load(_PULL_LIBRARIES)
    os.umask(0o077)
    privileges.limit(_MAX_DESCRIPTORS)
    privileges.drop_privileges(uid, gid)
    privileges.die_with_parent(parent)
    asyncio.run(_serve(socket.socket(fileno=descriptor)))


if __name__ == "__main__":
    main(sys.argv[1:])
