"""Where the worker leaves layers, and how the daemon takes them over without believing the worker."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial

from crib.backends.images.messages import BLOB_SUFFIX, staged_name
from crib.host import files
from crib.host.directories import in_own
from crib.model.errors import Broken, Unavailable
from crib.model.facts import LayerMounting
from crib.model.ids import Digest, is_digest
from crib.model.image import Layer
from crib.model.image_settings import StoreSettings
from crib.model.paths import Paths
from crib.wire.erofs import DATA_OFFSET
from crib.wire.erofs_reader import ErofsError, ErofsImage

_PAUSE_SECONDS = 1e-5
"""Between two pieces of metadata, each of which takes 1.5 ms to check."""


@dataclass(frozen=True, slots=True)
class WorkerUser:
    """Who the worker runs as."""

    uid: int
    gid: int


def worker_user(name: str) -> WorkerUser:
    """The unprivileged user of that name; our own where we are not root. Unavailable when there is none."""
    if os.geteuid() != 0:
        return WorkerUser(os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise Unavailable(f"images.worker_user: there is no user {name!r} for the image worker") from None
    if entry.pw_uid == 0:
        raise Unavailable(f"images.worker_user: {name!r} is root, the image worker must not be")
    return WorkerUser(entry.pw_uid, entry.pw_gid)


class Staging:
    """The staging directory and the way from there into the layers directory; every call blocks."""

    def __init__(
        self, paths: Paths, user: WorkerUser, settings: StoreSettings, mounting: LayerMounting
    ) -> None:
        """`mounting` is how layers will be mounted, and so what they have to be."""
        self._paths = paths
        self._user = user
        self.settings = settings
        """Those that hold now."""
        self._mounting = mounting

    @property
    def user(self) -> WorkerUser:
        """Who owns what lies there."""
        return self._user

    @property
    def path(self) -> str:
        """The directory."""
        return self._paths.staging

    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the directory: others when somebody has removed it under a worker."""
        try:
            found = os.stat(self._paths.staging)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def prepare(self, keep: Collection[Digest] = ()) -> None:
        """Make the directory, which only the worker may use, and remove what an earlier worker left in it.

        Staged layers in `keep` stay, and blobs that came in part, as far as the settings allow.
        """
        path = self._paths.staging
        os.makedirs(path, mode=0o700, exist_ok=True)
        kept = {staged_name(layer) for layer in keep} | self._resumable()
        for name in os.listdir(path):
            if name not in kept:
                files.remove_tree(f"{path}/{name}")
        os.chown(path, self._user.uid, self._user.gid, follow_symlinks=False)
        os.chmod(path, 0o700)

    def _resumable(self) -> set[str]:
        """Names of blobs that a pull may go on with: the youngest, none too old, and not too many bytes."""
        found = []
        for name in os.listdir(self._paths.staging):
            if not name.endswith(BLOB_SUFFIX):
                continue
            status = os.lstat(f"{self._paths.staging}/{name}")
            if stat.S_ISREG(status.st_mode) and status.st_uid == self._user.uid and status.st_nlink == 1:
                found.append((status.st_mtime, status.st_blocks * 512, name))
        oldest = time.time() - self.settings.partial_time
        left = self.settings.partial_bytes
        names = set()
        for modified, size, name in sorted(found, reverse=True):
            left -= size
            if modified < oldest or left < 0:
                break
            names.add(name)
        return names

    def discard(self, layers: Iterable[Digest]) -> None:
        """Remove staged layers that nobody will take over."""
        for layer in layers:
            if is_digest(layer):
                files.remove_tree(f"{self._paths.staging}/{staged_name(layer)}")

    def adopt(self, layers: Iterable[Layer], again: Collection[Digest] = ()) -> dict[Digest, int]:
        """Take over the staged layers that we do not have; the size of each layer's file.

        Those in `again` replace what we have. Broken when a staged file is missing or is not what the worker
        said; it is removed then.
        """
        in_own(self._paths.layers, os.stat)
        sizes: dict[Digest, int] = {}
        missing: dict[Digest, Layer] = {}
        for layer in layers:
            size = self._present(layer.diff_id) if layer.diff_id not in again else None
            if size is None:
                missing[layer.diff_id] = layer
            else:
                sizes[layer.diff_id] = size
                self.discard([layer.diff_id])
        sizes |= self._take(missing.values())
        if sizes:
            # Also for existing files: whoever put them there may have been killed before this.
            files.sync_directory(self._paths.layers)
        return sizes

    def _present(self, layer: Digest) -> int | None:
        try:
            return os.stat(self._paths.layer_file(layer)).st_size
        except FileNotFoundError:
            return None

    def _take(self, layers: Collection[Layer]) -> dict[Digest, int]:
        """Their sizes. In steps for all of them, because the first sync of many is the only long one."""
        claimed: list[Layer] = []
        sizes = {}
        with contextlib.ExitStack() as stack:
            try:
                opened = []
                for layer in layers:
                    self._claim(layer)
                    claimed.append(layer)
                    opened.append(self._inspect(self._incoming(layer), layer))
                    stack.callback(os.close, opened[-1])
                for fd in opened:
                    os.fsync(fd)
                for layer, fd in zip(layers, opened, strict=True):
                    sizes[layer.diff_id] = os.fstat(fd).st_size
                    os.rename(self._incoming(layer), self._paths.layer_file(layer.diff_id))
            except BaseException:
                for layer in claimed:
                    files.remove_tree(self._incoming(layer))
                raise
        return sizes

    def _incoming(self, layer: Layer) -> str:
        return f"{self._paths.layers}/.{staged_name(layer.diff_id)}.incoming"

    def _claim(self, layer: Layer) -> None:
        """Out of the worker's reach: what is checked afterwards is what stays."""
        staged = f"{self._paths.staging}/{staged_name(layer.diff_id)}"
        try:
            os.rename(staged, self._incoming(layer))
        except FileNotFoundError:
            text = f"layer {layer.diff_id} is missing: the image worker did not leave {staged}"
            raise Broken(text) from None

    def _inspect(self, path: str, layer: Layer) -> int:
        """The file, checked and ours, open."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._check_status(os.fstat(fd), layer)
            os.fchown(fd, os.geteuid(), os.getegid())
            os.fchmod(fd, 0o400)
            # Nobody new can open it for writing now; a writer that is there already makes the lease fail.
            _check_no_writer(fd, layer)
            self._check_content(fd, layer)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_status(self, status: os.stat_result, layer: Layer) -> None:
        if not stat.S_ISREG(status.st_mode) or status.st_uid != self._user.uid or status.st_nlink != 1:
            raise Broken(
                f"staged layer {layer.diff_id} does not belong to the image worker alone (mode "
                f"{status.st_mode:o}, uid {status.st_uid}, {status.st_nlink} links)"
            )

    def _check_content(self, fd: int, layer: Layer) -> None:
        """That the kernel will find in the file what our writer makes, and nothing else.

        Superblock and metadata are read to the end, here, where whoever wrote them has no say: some 3 µs for
        each file of the layer. Not the data, of which the kernel believes nothing.
        """
        status = os.fstat(fd)
        what = f"staged layer {layer.diff_id} is not the EROFS file of {layer.size} bytes that was announced"
        if status.st_nlink != 1 or status.st_size != layer.size:
            raise Broken(f"{what}: it has {status.st_size} bytes and {status.st_nlink} links")
        try:
            image = ErofsImage(partial(_read_slowly, fd), status.st_size)
            image.check()
        except ErofsError as error:
            raise Broken(f"{what}: {error}") from error
        if self._mounting.direct_io:
            # Nobody will read it through the page cache.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if image.block_size != self._mounting.block_size:
            raise Broken(f"{what}: its blocks have {image.block_size} bytes, not {self._mounting.block_size}")
        if not 0 <= layer.data_size <= image.data_end - DATA_OFFSET:
            raise Broken(f"{what}: {layer.data_size} bytes of data before {image.data_end} cannot be")


def _read_slowly(fd: int, offset: int, size: int) -> bytes:
    """A piece of the file; whoever waits for the interpreter's lock has it before, and not after 5 ms."""
    time.sleep(_PAUSE_SECONDS)
    return os.pread(fd, size, offset)


def _check_no_writer(fd: int, layer: Layer) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise Broken(f"staged layer {layer.diff_id} is still open for writing") from None
        if error.errno != errno.EINVAL:  # EINVAL: this file system has no leases
            raise
