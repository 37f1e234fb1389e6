"""What the image store and the containers' writable layers take of the disk, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import stat
import time

from crib.backends.failures import ours, trying
from crib.backends.images.unpacked.directories import DirectoryLayers
from crib.host import files
from crib.host.directories import in_own
from crib.host.threads import Job
from crib.model.disk import StoredLayers
from crib.model.errors import Unavailable
from crib.model.ids import digest_from_hex
from crib.model.image import DiskSpace, FilesystemUsage
from crib.model.paths import Paths

_SUFFIX = ".erofs"
_PAUSE_SECONDS = 10.0
"""Between two measurements of the writable layers."""
_MEASURE_SECONDS = 3600.0
"""To look at every file."""


class StoreSpace:
    """Of one data root."""

    def __init__(self, paths: Paths, directories: DirectoryLayers) -> None:
        self._paths = paths
        self._directories = directories
        self._writable: tuple[float, FilesystemUsage] | None = None

    async def disk(self) -> DiskSpace:
        """Of the file system that holds the layers."""
        what = f"asking for the space of {self._paths.layers}"
        with trying(f"{self._paths.layers} cannot be measured", Unavailable):
            found = await ours(what, in_own, self._paths.layers, os.statvfs)
        return DiskSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    async def usage(self) -> FilesystemUsage:
        """Space of layers, half-made ones and images' records."""
        job = Job(f"measuring the layers in {self._paths.layers}", limit=_MEASURE_SECONDS)
        with trying(f"{self._paths.layers} cannot be measured", Unavailable):
            return await ours(job, self._usage)

    async def stored(self) -> StoredLayers:
        """What each layer takes on disk, and what pulls have begun."""
        job = Job(f"measuring the layers in {self._paths.layers}", limit=_MEASURE_SECONDS)
        with trying(f"{self._paths.layers} cannot be measured", Unavailable):
            return await ours(job, self._stored)

    async def writable_usage(self) -> FilesystemUsage:
        """Space that the containers' writable layers take; measured at most every ten seconds."""
        if self._writable is None or time.monotonic() - self._writable[0] > _PAUSE_SECONDS:
            job = Job(f"measuring {self._paths.writable_layers}", limit=_MEASURE_SECONDS)
            with trying(f"{self._paths.writable_layers} cannot be measured", Unavailable):
                found = await ours(job, files.disk_usage, self._paths.writable_layers)
            usage = FilesystemUsage(self._paths.writable_layers, found.bytes, found.inodes, time.time_ns())
            self._writable = time.monotonic(), usage
        return self._writable[1]

    def _stored(self) -> StoredLayers:
        layers = {}
        for name in in_own(self._paths.layers, os.listdir):
            digest = digest_from_hex(name.removesuffix(_SUFFIX)) if name.endswith(_SUFFIX) else None
            with contextlib.suppress(FileNotFoundError):
                if digest is not None:
                    layers[digest] = os.lstat(f"{self._paths.layers}/{name}").st_blocks * 512
        for digest in self._directories.listed():
            layers[digest] = layers.get(digest, 0) + (self._directories.size(digest) or 0)
        return StoredLayers(layers, files.disk_usage(self._paths.staging).bytes)

    def _usage(self) -> FilesystemUsage:
        names = in_own(self._paths.layers, os.listdir)
        layers, staged = self._directories.usage(), files.disk_usage(self._paths.staging)
        used, inodes = layers.bytes + staged.bytes, layers.inodes + staged.inodes
        paths = [f"{self._paths.layers}/{name}" for name in names]
        paths += [self._paths.image_database + suffix for suffix in ("", "-wal", "-shm")]
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if not stat.S_ISDIR(status.st_mode):  # one of a layer was measured when it was unpacked
                    used, inodes = used + status.st_blocks * 512, inodes + 1
        return FilesystemUsage(self._paths.layers, used, inodes, time.time_ns())
