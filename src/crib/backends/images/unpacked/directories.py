"""Layers as directories, for hosts where no EROFS file can be mounted.

A layer is still written, checked and adopted as an EROFS file, and then unpacked from it into `HEX.dir` by a
process that can reach nothing else (`unpack_main`). The directory is there exactly when it is whole and
synced, because it is only ever renamed into place; `HEX.tree` beside it has the digest of its tree. The EROFS
file goes afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from crib.backends.confined_programs import ANSWER_ERRORS, run_confined
from crib.backends.failures import failure, ours
from crib.backends.images.archives import close_all
from crib.backends.images.unpacked.unpack_main import MAX_ANSWER, UnpackAnswer
from crib.host import files, libc
from crib.host.directories import in_own
from crib.host.mount_table import mounts_below
from crib.host.threads import Job
from crib.model.errors import Broken, CribError, Exhausted, NotFound
from crib.model.ids import Digest, digest_from_hex, digest_hex, is_digest
from crib.model.paths import Paths
from crib.wire.erofs_inode import OPAQUE

_log = logging.getLogger(__name__)

_SUFFIX = ".dir"
_UNPACKING = ".unpacking"
_REMOVED = ".removed"
_TREE = ".tree"
_SECONDS = 3600.0
_PARALLEL = 2
_UNPACK = "crib.backends.images.unpacked.unpack_main"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_XDEV


class _Recorded(msgspec.Struct, frozen=True):
    """What HEX.tree holds: the tree's digest, allocated bytes and inodes of the directory."""

    digest: str
    size: int
    inodes: int


@dataclass(slots=True)
class _Work:
    """Callers that want one layer unpacked."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0


class DirectoryLayers:
    """The unpacked layers of one data root. Unpacking leaves `min_free` bytes of its file system free."""

    def __init__(self, paths: Paths, min_free: int = 0) -> None:
        self._paths = paths
        self.min_free = min_free
        self._work: dict[Digest, _Work] = {}
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._tidying = asyncio.Lock()
        self._names = asyncio.Lock()
        """Held while it is decided what is being unpacked, and what is left over."""
        self._serial = itertools.count()

    def listed(self) -> list[Digest]:
        """The layers that are here; blocks for one look into a directory."""
        names = in_own(self._paths.layers, os.listdir)
        digests = (digest_from_hex(name.removesuffix(_SUFFIX)) for name in names if name.endswith(_SUFFIX))
        return [digest for digest in digests if digest is not None]

    def size(self, layer: Digest) -> int | None:
        """Bytes that the layer takes on disk; None when it is not here. Blocks shortly."""
        if not os.path.isdir(self._paths.layer_directory(layer)):
            return None
        recorded = self._recorded(layer)
        if recorded is None:
            return files.disk_usage(self._paths.layer_directory(layer)).bytes
        return recorded.size

    def usage(self) -> files.DiskUsage:
        """What all of them take, as it was when they were unpacked; blocks for a small file each."""
        recorded = [found for layer in self.listed() if (found := self._recorded(layer)) is not None]
        return files.DiskUsage(sum(each.size for each in recorded), sum(each.inodes for each in recorded))

    async def unpack(self, layer: Digest) -> int:
        """Unpack the layer's EROFS file and remove it; the bytes that the directory takes.

        Nothing is done when the directory is here; callers at once share the work. NotFound when there is
        neither, Exhausted when the disk is full, Broken when the file is none of ours; then nothing of the
        directory is left and the file stays.
        """
        if not is_digest(layer):
            raise Broken(f"{layer!r} is not the digest of a layer")
        async with self._names:
            work = self._work.setdefault(layer, _Work())
            work.callers += 1
        try:
            async with work.lock:
                size = await ours(Job("looking at a layer's directory", layer), self.size, layer)
                if size is None:
                    async with self._slots:
                        size = await self._unpack(layer)
                await ours(Job("removing a layer's file", layer), _unlink, self._paths.layer_file(layer))
                return size
        finally:
            work.callers -= 1
            if not work.callers:
                del self._work[layer]

    async def check(self, layer: Digest) -> str:
        """What is wrong with the layer on disk; empty when its tree is as it was unpacked."""
        recorded = await ours(Job("reading a layer's digest", layer), self._recorded, layer)
        if recorded is None:
            return f"the digest of its tree is missing: {self._tree_file(layer)}"
        try:
            digest = await check_directory(self._paths.layer_directory(layer))
        except CribError as error:
            return error.message
        return "" if digest == recorded.digest else f"its tree has the digest {digest}, not {recorded.digest}"

    async def remove(self, layers: Collection[Digest]) -> None:
        """Take these layers away at once; `tidy` deletes what was theirs, which takes longer.

        Not for layers that are being unpacked; unmount them first. Containers that run on them go on.
        """
        doomed = [layer for layer in layers if is_digest(layer)]
        await ours(f"removing {len(doomed)} layers of {self._paths.layers}", self._remove, doomed)

    async def tidy(self) -> None:
        """Delete what was removed, unless a container's root still uses it, and what is half-made.

        Takes seconds for large layers. Layers that are being unpacked or come meanwhile are not disturbed.
        """
        async with self._tidying:
            async with self._names:  # no unpacking may begin in between; deleting takes longer
                busy = {digest_hex(layer) for layer in self._work}
                where = f"looking for left-over layers in {self._paths.layers}"
                doomed = await ours(where, self._leftovers, busy)
            job = Job(f"deleting {len(doomed)} removed layers", limit=_SECONDS)
            await ours(job, self._delete, doomed)

    async def _unpack(self, layer: Digest) -> int:
        target = self._unpacking(layer)
        subject = f"layer {layer} could not be unpacked into {target}"
        opened: list[int] = []
        try:
            try:
                job = Job("preparing a layer's directory", layer, _SECONDS, late=partial(close_all, opened))
                await ours(job, self._prepare, layer, target, opened)
                source_fd, target_fd = opened
                answer = await unpack_file(source_fd, target_fd, subject)
                await ours(
                    Job("syncing an unpacked layer", layer, _SECONDS), self._finish, layer, target_fd, answer
                )
            finally:
                close_all(opened)
        except OSError as error:
            raise failure(subject, error) from error
        finally:
            # Gone already after a success: the name is another one then.
            await ours(Job("removing a half-unpacked layer", layer, _SECONDS), files.remove_tree, target)
        if answer.left_out:
            text = "layer %s: %d extended attributes are left out: %s does not take them"
            _log.warning(text, layer, answer.left_out, self._paths.layers)
        return answer.size

    def _prepare(self, layer: Digest, target: str, opened: list[int]) -> None:
        """Into `opened` come the layer's file and the new directory."""
        source = self._paths.layer_file(layer)
        try:
            opened.append(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except OSError as error:
            raise failure(f"layer {layer} is not on disk: {source}", error, NotFound) from error
        files.remove_tree(target)
        space = os.statvfs(self._paths.layers)
        needed = os.fstat(opened[0]).st_blocks * 512 + self.min_free
        if space.f_bavail * space.f_frsize < needed:
            raise OSError(errno.ENOSPC, f"{needed} bytes are needed", self._paths.layers)
        os.mkdir(target, 0o700)
        opened.append(os.open(target, _DIRECTORY))

    def _finish(self, layer: Digest, target_fd: int, answer: UnpackAnswer) -> None:
        """Mark and put in place what the process made and synced, without following anything in it."""
        for path in answer.opaque:
            fd = libc.openat2(target_fd, os.fsdecode(path) or ".", _DIRECTORY, resolve=_BENEATH)
            try:
                os.setxattr(fd, OPAQUE, b"y")
            finally:
                os.close(fd)
        if answer.opaque:
            files.sync_filesystem(target_fd)
        recorded = _Recorded(answer.digest, answer.size, answer.inodes)
        files.atomic_write(self._tree_file(layer), msgspec.json.encode(recorded), 0o600, sync=True)
        os.rename(self._unpacking(layer), self._paths.layer_directory(layer))
        files.sync_directory(self._paths.layers)

    def _remove(self, layers: Iterable[Digest]) -> None:
        for layer in layers:
            try:
                self._put_aside(self._paths.layer_directory(layer), digest_hex(layer))
            except FileNotFoundError:
                pass
            _unlink(self._tree_file(layer))
            _unlink(self._paths.layer_file(layer))

    def _put_aside(self, path: str, digits: str) -> str:
        name = f"{self._paths.layers}/.{digits}.{os.getpid()}-{next(self._serial)}{_REMOVED}"
        os.rename(path, name)
        return name

    def _leftovers(self, busy: Collection[str]) -> list[str]:
        """Take half-made layers and stray files away; the directories that are to be deleted."""
        aside = []
        names = set(in_own(self._paths.layers, os.listdir))
        for name in names:
            path = f"{self._paths.layers}/{name}"
            digits = name.removeprefix(".").partition(".")[0]
            whole = digits + _SUFFIX in names
            if digits in busy:
                continue
            if name == f".{digits}{_UNPACKING}":
                aside.append(self._put_aside(path, digits))
            elif name.startswith(".") and name.endswith(_REMOVED):
                aside.append(path)
            elif (name == digits + _TREE and not whole) or (name == f"{digits}.erofs" and whole):
                _unlink(path)
        return aside

    def _delete(self, paths: Sequence[str]) -> None:
        used = self._used_layers() if paths else ""
        for path in paths:
            layer = digest_from_hex(os.path.basename(path)[1:].partition(".")[0])
            # Roots know a layer by its mount point, whose name is the beginning of the digest.
            if layer is None or os.path.basename(self._paths.layer_mount(layer)) not in used:
                files.remove_tree(path)

    def _used_layers(self) -> str:
        """The options of all roots and image volumes that are mounted: they name the layers below."""
        entries = mounts_below(os.path.realpath(self._paths.state))
        return " ".join(option for entry in entries for option in entry.super_options)

    def _recorded(self, layer: Digest) -> _Recorded | None:
        try:
            with open(self._tree_file(layer), "rb") as file:
                return msgspec.json.decode(file.read(4096), type=_Recorded)
        except (OSError, msgspec.MsgspecError):
            return None

    def _unpacking(self, layer: Digest) -> str:
        return f"{self._paths.layers}/.{digest_hex(layer)}{_UNPACKING}"

    def _tree_file(self, layer: Digest) -> str:
        return f"{self._paths.layers}/{digest_hex(layer)}{_TREE}"


async def check_directory(path: str) -> str:
    """The digest of the tree in a directory, read by a confined process. Broken when it cannot be read."""
    subject = f"{path} could not be checked"
    opened: list[int] = []
    try:
        job = Job(f"opening {path}", path, late=partial(close_all, opened))
        await ours(job, lambda: opened.append(os.open(path, _DIRECTORY)))
        try:
            return (await unpack_file(-1, opened[0], subject)).digest
        finally:
            close_all(opened)
    except OSError as error:
        raise failure(subject, error) from error


async def unpack_file(source_fd: int, target_fd: int, subject: str) -> UnpackAnswer:
    """Unpack an EROFS file into an empty directory, in a confined process of its own.

    Opaque directories are reported, not marked. A `source_fd` of -1 has the existing tree read, for its
    digest. Broken or Exhausted; `subject` begins their text.
    """
    descriptors = tuple(fd for fd in (source_fd, target_fd) if fd >= 0)
    arguments = (str(source_fd), str(target_fd))
    try:
        said = await run_confined(_UNPACK, arguments, descriptors, seconds=_SECONDS, most=MAX_ANSWER)
        answer = msgspec.msgpack.decode(said, type=UnpackAnswer)
    except ANSWER_ERRORS as error:
        raise Broken(f"{subject}: {error}") from error
    if answer.error:
        raise (Exhausted if answer.full else Broken)(f"{subject}: {answer.error}")
    return answer


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
