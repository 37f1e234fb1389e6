"""Layers in the tree: each mounted once, read-only, below one private place, and shared by all containers.

A layer that was unpacked (`directories`) is bound there instead, so that nothing else differs.

The mounts are nosuid and nodev: an overlay looks at its own flags for both, so set-uid programs and device
nodes of an image work as the container's root mount says, and nobody can use them through the layer
itself. An overlay keeps a layer's superblock alive by itself, so unmounting a layer never disturbs a
running container.

A layer may hide all below it (an opaque whiteout in its root, OCI image specification, layer.md). Overlayfs
does not look for the mark there, so the layers below are left out of the stack here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from crib.backends.images.unpacked.directories import DirectoryLayers
from crib.host import loop_devices, mounts, selinux
from crib.host.threads import OURS, Job
from crib.model.errors import Broken, NotFound
from crib.model.facts import LayerMounting
from crib.model.ids import Digest, digest_from_hex, is_digest
from crib.model.paths import Paths
from crib.tasks.keeper import HANDS
from crib.wire.erofs_inode import OPAQUE

_log = logging.getLogger(__name__)


_preparing = threading.Lock()
_TRIES = 3
"""How often layers are mounted that somebody unmounts at the same time."""


@dataclass(frozen=True, slots=True)
class _Mounted:
    layer: Digest
    root: tuple[int, int] | None
    """Device and inode of its root: others are seen when it was unmounted, or something lies over it."""


class LayerMounts:
    """All layer mounts of one daemon; recognises what an earlier daemon left mounted."""

    def __init__(
        self, paths: Paths, mounting: LayerMounting, directories: DirectoryLayers | None = None
    ) -> None:
        self._paths = paths
        self._mounting = mounting
        self._directories = directories or DirectoryLayers(paths)
        self._mounted: dict[str, _Mounted] = {}
        self._under_way: dict[str, asyncio.Future[_Mounted]] = {}
        prepare_root(paths)
        self._recover()

    @property
    def mounting(self) -> LayerMounting:
        """How layers are mounted."""
        return self._mounting

    async def acquire(self, layers: Sequence[Digest]) -> Sequence[str]:
        """Mount what is not mounted yet; the mount points in the same order (lowest first).

        Layers below one that hides all below it are left out. Where layers are directories, one that still
        is an EROFS file (from a time when those could be mounted) is unpacked first.

        NotFound when a layer is not on disk, Broken when the kernel refuses its file. Callers that want
        the same layer at once share one mount; one that is cancelled leaves the others waiting.
        """
        for _try in range(_TRIES):
            await self._mount_missing(layers)
            lost, seen = await OURS.run(f"looking at {len(layers)} layers", self._look, layers)
            if not lost:
                return seen
            for target, known in lost.items():
                if self._mounted.get(target) is known:  # else somebody else has mounted it again
                    _log.warning("somebody has unmounted the layer at %s: it is mounted again", target)
                    del self._mounted[target]
        raise Broken(f"layers do not stay mounted below {self._paths.layer_mounts}: somebody unmounts them")

    async def _mount_missing(self, layers: Sequence[Digest]) -> None:
        if self._mounting.method == "directory":
            for layer in layers:
                if is_digest(layer) and self._paths.layer_mount(layer) not in self._mounted:
                    await self._directories.unpack(layer)
        waiting = [future for layer in layers if (future := self._begin(layer)) is not None]
        # All of them end before an error is raised, so that no mount appears after the caller was told.
        if waiting:
            await asyncio.wait(waiting)
        for mounted in waiting:
            mounted.result()

    def _look(self, layers: Sequence[Digest]) -> tuple[dict[str, _Mounted], list[str]]:
        """By their places layers that are not there any more; if there are none, the places to be used."""
        targets = [self._paths.layer_mount(layer) for layer in layers]
        known = {target: self._mounted[target] for target in targets if target in self._mounted}
        lost = {target: one for target, one in known.items() if one.root != _root_of(target)}
        return lost, [] if lost else _visible(targets)

    def _begin(self, layer: Digest) -> asyncio.Future[_Mounted] | None:
        if not is_digest(layer):
            raise Broken(f"{layer!r} is not the digest of a layer")
        target = self._paths.layer_mount(layer)
        mounted = self._mounted.get(target)
        if mounted is not None and mounted.layer == layer:
            return None
        if mounted is not None:
            raise Broken(f"layers {mounted.layer} and {layer} share the mount point {target}")
        if (under_way := self._under_way.get(target)) is not None:
            return under_way
        job = Job(f"mounting layer {layer}", owner=layer)
        future = HANDS.part("mounting layer", OURS.run(job, self._mount, layer, target), layer)
        self._under_way[target] = future
        future.add_done_callback(lambda done: self._ended(target, done))
        return future

    def _ended(self, target: str, future: asyncio.Future[_Mounted]) -> None:
        self._under_way.pop(target, None)
        if not future.cancelled() and future.exception() is None:
            self._mounted[target] = future.result()

    def _mount(self, layer: Digest, target: str) -> _Mounted:
        source, mounting = self._paths.layer_file(layer), self._mounting
        if os.path.isdir(directory := self._paths.layer_directory(layer)):
            source, mounting = directory, replace(mounting, method="directory")
        try:
            with _preparing:
                prepare_root(self._paths)
            os.makedirs(target, mode=0o755, exist_ok=True)
            while mounts.unmount(target, lazy=True):  # what somebody else has mounted there
                pass
            mount_layer(source, target, mounting)
            return _Mounted(layer, _root_of(target))
        except FileNotFoundError as error:
            raise NotFound(f"layer {layer} is not on disk: {source}") from error
        except OSError as error:
            raise Broken(f"mount of layer {layer} at {target} failed: {error}") from error

    async def unmount(self, layers: Collection[Digest]) -> Sequence[Digest]:
        """Unmount these layers; those that are in use (EBUSY) stay and are left out of the answer."""
        return await OURS.run(f"unmounting {len(layers)} layers", self._unmount, list(layers))

    def _unmount(self, layers: Iterable[Digest]) -> list[Digest]:
        gone = []
        for layer in layers:
            target = self._paths.layer_mount(layer)
            known = self._mounted.get(target)
            if target in self._under_way or (known is not None and known.layer != layer):
                continue
            try:
                while mounts.unmount(target):
                    pass
                os.rmdir(target)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise Broken(f"unmount of layer {layer} failed: {error}") from error
                _log.info("layer %s stays mounted at %s: it is in use", layer, target)
                continue
            self._mounted.pop(target, None)
            gone.append(layer)
        return gone

    async def unmount_all(self) -> None:
        """Unmount every layer and the place itself: for a clean end, when no container runs."""
        await OURS.run("unmounting all layers", mounts.unmount_tree, self._paths.layer_mounts)
        self._mounted.clear()

    def _recover(self) -> None:
        """Take over what is mounted already. Unmount it if we cannot say which layer it is."""
        root = os.path.realpath(self._paths.layer_mounts)
        for entry in mounts.mounts_below(root):
            if entry.path == root:
                continue
            layer = self._layer_of(entry.source if entry.fstype == "erofs" else entry.root)
            if layer is not None and os.path.basename(self._paths.layer_mount(layer)) == os.path.basename(
                entry.path
            ):
                target = self._paths.layer_mount(layer)
                self._mounted[target] = _Mounted(layer, _root_of(target))
            else:
                mounts.unmount(entry.path, lazy=True)

    def _layer_of(self, source: str) -> Digest | None:
        if source.startswith("/dev/loop"):
            try:
                with open(
                    f"/sys/block/{os.path.basename(source)}/loop/backing_file", encoding="utf-8"
                ) as file:
                    source = file.read().strip()
            except OSError:
                return None
        digits, _, suffix = os.path.basename(source).partition(".")
        return digest_from_hex(digits) if suffix in ("erofs", "dir") else None


def _root_of(target: str) -> tuple[int, int] | None:
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino)


def _visible(mounted: list[str]) -> list[str]:
    """Without the layers below the topmost one that is opaque as a whole."""
    for index in range(len(mounted) - 1, 0, -1):
        try:
            if os.getxattr(mounted[index], OPAQUE) == b"y":
                return mounted[index:]
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise Broken(f"layer mounted at {mounted[index]} cannot be read: {error}") from error
    return mounted


def prepare_root(paths: Paths) -> None:
    """Make the directory of the layer mounts a mount itself, private and unbindable; safe to repeat."""
    os.makedirs(paths.layer_mounts, mode=0o711, exist_ok=True)
    try:
        mounts.make_private_root(paths.layer_mounts)
    except OSError as error:
        raise Broken(f"{paths.layer_mounts} cannot be made a private mount: {error}") from error


def release_unused_roots(paths: Paths) -> None:
    """Unmount what `prepare_root` and the handlers made mounts, where nothing is mounted inside.

    The next start makes them again: nothing stays of one that fails half-way, or that only looks.
    """
    for root in (paths.layer_mounts, paths.containers):
        with contextlib.suppress(OSError):  # busy: somebody is in there
            if mounts.is_mountpoint(root) and len(mounts.mounts_below(os.path.realpath(root))) == 1:
                mounts.unmount(root)


def mount_layer(source: str, target: str, mounting: LayerMounting) -> None:
    """Mount one layer's file, or bind its directory, as the probe found it to work.

    OSError when the kernel refuses.
    """
    if mounting.method == "directory":
        mounts.perform(mounts.Bind(source, target, recursive=False, read_only=True, no_suid_dev=True))
        return
    if mounting.method == "loop":
        # A device's blocks must not be larger than the image's.
        with loop_devices.attached_loop(
            source, direct_io=mounting.direct_io, block_size=mounting.block_size
        ) as device:
            mounts.perform(mounts.Erofs(target, device.path))
        return
    if mounting.label:
        selinux.label_file(source, mounting.label)
    mounts.perform(mounts.Erofs(target, source, direct_io=mounting.direct_io))
