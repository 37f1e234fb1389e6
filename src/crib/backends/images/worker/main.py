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
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from crib.backends.images.messages import (
    Cancel,
    Done,
    File,
    Import,
    NeedFile,
    Pull,
    Step,
    Taken,
    ToWorker,
    WorkerChannel,
    worker_decoder,
)
from crib.backends.images.worker import archive
from crib.backends.images.worker.documents import FoundImage, FoundLayer
from crib.backends.images.worker.failures import failed
from crib.backends.images.worker.transfer import FileOrigin, LayerOrigin, LayerTransfers, RegistryOrigin
from crib.host import landlock, privileges, seccomp
from crib.model.errors import Unavailable
from crib.model.ids import Digest
from crib.model.image import FetchedImage, Layer, Progress
from crib.tasks.groups import Group

if TYPE_CHECKING:
    from crib.backends.images.worker.host_pool import HostPool

_MAX_DESCRIPTORS = 4096
_MAX_LOOKUPS = 32
"""Names that are looked up at once: a name server that says nothing holds a thread for half a minute."""
_STACK = 1 << 20
_NICE = 10
"""The daemon answers while layers are written, and so does everything beside it."""
_AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_SWITCH_INTERVAL = 0.0005
_READABLE = ("/etc", "/usr", "/lib", "/lib64", "/bin", "/opt", "/nix/store", "/gnu/store")
"""Libraries, certificates, the resolver's files."""
_SYSTEM = ("/proc/self", "/sys/devices/system/cpu", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_RESOLVERS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd", "/var/run/nscd")
_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_IMPORT_LIBRARIES = ("isal.isal_zlib", "isal.igzip_lib", _ZSTD, "traceback")
_PULL_MODULES = ("crib.backends.images.worker.registry", "crib.backends.images.worker.guarded")
_PULL_LIBRARIES = ("encodings.idna", "aiohttp", *_PULL_MODULES)


class _Request:
    """One pull or import under way."""

    def __init__(
        self, message: Pull | Import, channel: WorkerChannel[ToWorker], transfers: LayerTransfers
    ) -> None:
        self._id = message.id
        self._importing = isinstance(message, Import)
        self._terms = message.terms
        self._platform = message.platform
        self._channel = channel
        self._transfers = transfers
        self.present: dict[str, Layer | None] = dict.fromkeys(message.have)
        """Layers that the daemon has; with what is known of those that came while this request ran."""
        self._obtained: set[Digest] = set()
        self._files: dict[str, asyncio.Future[int | None]] = {}
        self.task: asyncio.Task[None] | None = None

    async def run(self, job: Coroutine[None, None, tuple[FetchedImage, ...]]) -> None:
        """Do the work and answer; never raises."""
        try:
            images = await job
            self._channel.send(Done(self._id, images))
        except BaseException as error:  # every end of a request is an answer
            # Whoever hears of the failure finds nothing left of it.
            self._transfers.release(self._id, self._obtained, handed_over=False)
            self._channel.send(failed(self._id, error, importing=self._importing))
        else:
            self._transfers.release(self._id, self._obtained, handed_over=True)

    async def pull(self, message: Pull, pool: Callable[[], HostPool]) -> tuple[FetchedImage, ...]:
        """Resolve a reference and fetch what is missing."""
        self._channel.send(Step(self._id, "resolving"))
        try:
            _load_pull_libraries()
        except (ImportError, OSError, LookupError) as error:
            text = f"image worker cannot load what pulls need before its imports are done: {error}"
            raise Unavailable(text) from error
        from crib.backends.images.worker.connections import host_name
        from crib.backends.images.worker.registry import RegistryClient

        async with RegistryClient(message, pool()) as client:
            image = await client.resolve()
            if hosts := client.blob_hosts():
                self._report(Progress("resolving", host=host_name(hosts[0])))
            if not message.layers:
                return (image.fetched(()),)
            return (image.fetched(await self._layers(image, lambda _: RegistryOrigin(client))),)

    async def import_archive(self, fd: int | None) -> tuple[FetchedImage, ...]:
        """Read an archive by its descriptor, or a layout directory through the daemon."""
        self._channel.send(Step(self._id, "resolving"))
        source: archive.ArchiveSource
        source = (
            archive.LayoutDirectory(self._open)
            if fd is None
            else await archive.open_archive(fd, self._terms.transfer)
        )
        try:
            images = await archive.read_images(source, self._platform)
            fetched = []
            for image in images:
                extents = {layer.place: await _existing(source, layer.place) for layer in image.layers}

                def origin(
                    layer: FoundLayer, extents: dict[str, archive.FileExtent] = extents
                ) -> LayerOrigin:
                    return FileOrigin(extents[layer.place].chunks)

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
        """All layers of an image, the largest first, so that no large one is left for the end."""
        got: dict[Digest, Layer] = {}
        slots = asyncio.Semaphore(self._terms.transfer.parallel_layers)

        async def fetch(layer: FoundLayer) -> None:
            async with slots:
                got[layer.diff_id] = await self._transfers.obtain(
                    layer, origin(layer), self._terms, self._report
                )
            self._obtained.add(layer.diff_id)
            self._report(Progress("done", layer.diff_id, layer.size, layer.size))

        def missing() -> dict[Digest, FoundLayer]:
            # What the daemon could not take over from another request is not to be counted on any more.
            here = {diff_id for diff_id in got if self._transfers.holds(diff_id)} | self.present.keys()
            return {layer.diff_id: layer for layer in image.layers if layer.diff_id not in here}

        for layer in image.layers:
            if layer.diff_id in self.present:
                self._report(Progress("present", layer.diff_id, layer.size, layer.size))
        while wanted := missing():
            try:
                async with Group() as group:
                    for layer in sorted(wanted.values(), key=lambda layer: -layer.size):
                        group.start(f"layer {layer.diff_id}", fetch(layer))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return tuple(got.get(layer.diff_id) or self._found(layer) for layer in image.layers)

    def _found(self, layer: FoundLayer) -> Layer:
        """A layer that was not fetched for this request."""
        digest = layer.blob_digest or layer.diff_id
        known = self.present[layer.diff_id]
        return Layer(layer.diff_id, digest, 0) if known is None else replace(known, blob_digest=digest)

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


async def _existing(source: archive.ArchiveSource, name: str) -> archive.FileExtent:
    extent = await source.find(name)
    if extent is None:
        raise archive.ArchiveError(f"archive lacks {name}")
    return extent


class _Worker:
    """All requests of one worker."""

    def __init__(self, sock: socket.socket, group: Group, memory: int) -> None:
        self._group = group
        self._channel: WorkerChannel[ToWorker] = WorkerChannel(
            sock, worker_decoder(), self._take, self._closed
        )
        self._transfers = LayerTransfers(group, memory)
        self._requests: dict[int, _Request] = {}
        self._pool: HostPool | None = None

    def _take(self, message: ToWorker, fd: int | None) -> None:
        match message:
            case Pull():
                request = self._begin(message)
                self._start(request, request.pull(message, self._hosts))
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
            case Taken(id=number, adopted=adopted):
                for layer in self._transfers.taken(number, adopted=adopted):
                    for request in self._requests.values():
                        request.present.setdefault(layer.diff_id, layer)

    def _hosts(self) -> HostPool:
        """What is known of hosts, for all pulls of this worker; aiohttp is there when it is asked for."""
        from crib.backends.images.worker.host_pool import HostPool

        if self._pool is None:
            self._pool = HostPool()
        return self._pool

    def _begin(self, message: Pull | Import) -> _Request:
        request = _Request(message, self._channel, self._transfers)
        self._requests[message.id] = request
        return request

    def _start(self, request: _Request, job: Coroutine[None, None, tuple[FetchedImage, ...]]) -> None:
        number = next(key for key, value in self._requests.items() if value is request)
        request.task = self._group.start(f"request {number}", request.run(job))
        request.task.add_done_callback(lambda _: self._requests.pop(number, None))

    def _closed(self, reason: str) -> None:
        # Nobody is left to work for; what is half done lies in the staging directory, which the daemon
        # empties.
        os._exit(0)


async def _serve(sock: socket.socket, memory: int) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_MAX_LOOKUPS, "lookup"))
    async with Group() as group:
        worker = _Worker(sock, group, memory)
        await asyncio.Event().wait()
        del worker


def _load_pull_libraries() -> None:
    # aiohttp makes a TLS context that trusts the system's authorities when it is imported, which is a third
    # of our start; every connection of ours gets a context of its own (images.tls), so that one may trust
    # nobody.
    named = {name: os.environ.get(name) for name in _AUTHORITIES}
    os.environ.update(dict.fromkeys(_AUTHORITIES, os.devnull))
    try:
        _load(_PULL_LIBRARIES)
    finally:
        for name, value in named.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _load(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)


def _confine() -> None:
    """Nothing but the staging directory can be written from now on, and no other file of the host's read."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path}
    places |= {os.environ.get(name, "") for name in _AUTHORITIES}
    landlock.confine([*_READABLE, *_SYSTEM, *_RESOLVERS, *filter(os.path.isabs, places)], ["."])


def main(arguments: list[str]) -> None:
    """Arguments: the socket's descriptor, uid, gid, the daemon's pid, bytes of memory that may be used (0: no
    limit), and `pull` to load what pulls need."""
    os.nice(_NICE)
    descriptor, uid, gid, parent, memory = map(int, arguments[:5])
    # Before the rights are gone: Python may lie where only root reads.
    _load(_IMPORT_LIBRARIES)
    if arguments[5:] == ["pull"]:
        _load_pull_libraries()
    os.umask(0o077)
    # Stacks count as memory that is used, and none of our threads goes deep.
    threading.stack_size(_STACK)
    # A thread that comes back from hashing or inflating must not wait for long behind one that reads a tar.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    privileges.limit(_MAX_DESCRIPTORS, memory)
    privileges.drop_privileges(uid, gid)
    _confine()
    try:
        privileges.die_with_parent(parent)
    except ProcessLookupError:  # nobody is left to work for
        return
    seccomp.confine(seccomp.NETWORK.values(), sockets=True)
    asyncio.run(_serve(socket.socket(fileno=descriptor), memory))


if __name__ == "__main__":
    main(sys.argv[1:])
