"""Image archives: OCI layouts (a directory, or a tar of one) and what `docker save` writes.

Everything here runs in the worker and reads hostile input: no member is extracted, names are only looked
up, and each document is bounded. Errors are `ArchiveError`, which says what is wrong with which member.
"""

from __future__ import annotations

import os
import posixpath
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from crib.backends.images.descent import run_config
from crib.backends.images.worker.documents import (
    FoundImage,
    FoundLayer,
    canonical_name,
    check_platform,
    image_of,
    wire_platform,
)
from crib.backends.images.worker.inflate import InflateError, inflate_archive
from crib.host.threads import FOREIGN, Job
from crib.model.ids import Digest, ImageId, digest_of
from crib.model.image import ImageDocuments, Platform
from crib.model.image_settings import TransferSettings
from crib.wire import oci_image
from crib.wire.tar import TarError, TarReader
from crib.wire.tar_member import Kind, Member, printable

MAX_ARCHIVE_MEMBERS = 100_000
INDEX_SECONDS = 3600.0
_CHUNK = 1 << 20
_INFLATED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How gzip and zstd begin; an archive that is compressed as a whole is inflated first."""
_COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class ArchiveError(ValueError):
    """The archive is not what it must be."""


@dataclass(frozen=True, slots=True)
class FileExtent:
    """Bytes of an open file; several may share one descriptor, so they are read by position."""

    fd: int
    offset: int
    size: int
    name: str

    def chunks(self) -> Iterator[bytes]:
        """The bytes; ArchiveError when the file ends before them. For a thread: this blocks."""
        position, end = self.offset, self.offset + self.size
        while position < end:
            chunk = os.pread(self.fd, min(_CHUNK, end - position), position)
            if not chunk:
                raise ArchiveError(f"archive ends inside {self.name}: it is truncated")
            position += len(chunk)
            yield chunk


class ArchiveSource(Protocol):
    """Where the files of an archive are had from."""

    async def find(self, name: str) -> FileExtent | None:
        """The file of that name, or None."""
        ...

    def close(self) -> None: ...


class LayoutDirectory:
    """An OCI layout directory, whose files somebody else (the daemon) opens."""

    def __init__(self, opener: Callable[[str], Awaitable[int | None]]) -> None:
        self._opener = opener
        self._fds: list[int] = []

    async def find(self, name: str) -> FileExtent | None:
        fd = await self._opener(name)
        if fd is None:
            return None
        self._fds.append(fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError(f"{name} is not a regular file")
        return FileExtent(fd, 0, status.st_size, name)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


class _SeekingTarReader(TarReader):
    """A reader that can leave out the data between two headers."""

    @property
    def wanted(self) -> int:
        """Offset of the next byte that it needs."""
        return self._next + len(self._partial)

    def skip(self) -> None:
        """Go on at `wanted`."""
        self._received = self.wanted


class TarArchive:
    """A tar file: its members are indexed once, by reading nothing but headers."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._members: dict[str, Member] = {}

    async def index(self) -> None:
        """Read all headers; ArchiveError for what is no tar."""
        stop = threading.Event()
        try:
            job = Job("reading the headers of an archive", limit=INDEX_SECONDS, stop=stop.set)
            await FOREIGN.run(job, self._index, stop)
        except TarError as error:
            raise ArchiveError(f"archive is malformed: {error}") from error

    def _index(self, stop: threading.Event) -> None:
        head = os.pread(self._fd, 6, 0)
        for magic, name in _COMPRESSED.items():
            if head.startswith(magic):
                raise ArchiveError(f"archive is compressed with {name}; decompress it first")
        reader = _SeekingTarReader(MAX_ARCHIVE_MEMBERS)
        while reader.wanted < self._size and not stop.is_set():
            reader.skip()
            block = os.pread(self._fd, 512, reader.wanted)
            if not block:
                break
            for member in reader.receive_data(block):
                self._add(member)
            if block == bytes(512):
                break
        if not self._members:
            raise ArchiveError("archive has no members")

    def _add(self, member: Member) -> None:
        shown = printable(member.name)
        try:
            name = posixpath.normpath(member.name.decode())
        except UnicodeDecodeError as error:
            raise ArchiveError(f"archive member {shown} has a name that is not UTF-8") from error
        if name.startswith("/") or ".." in name.split("/"):
            raise ArchiveError(f"archive member {shown} leads out of the archive")
        if member.offset + member.stored > self._size:
            raise ArchiveError(f"archive ends inside {shown}: it is truncated")
        self._members[name] = member

    async def find(self, name: str) -> FileExtent | None:
        member = self._members.get(name)
        if member is not None and member.kind in (Kind.SYMLINK, Kind.HARD_LINK):
            # Old versions of docker save link a layer that occurs twice; one step is all they make.
            base = posixpath.dirname(name) if member.kind is Kind.SYMLINK else ""
            name = posixpath.normpath(posixpath.join(base, member.link.decode("utf-8", "replace")))
            member = self._members.get(name)
        if member is None:
            return None
        if member.kind is not Kind.FILE or member.sparse is not None:
            raise ArchiveError(f"archive member {printable(member.name)} is not a plain file")
        return FileExtent(self._fd, member.offset, member.stored, name)

    def close(self) -> None:
        os.close(self._fd)


async def open_archive(fd: int, limits: TransferSettings) -> TarArchive:
    """An indexed archive; the descriptor is closed with it, and also when this fails."""
    archive = TarArchive(fd)
    try:
        if os.pread(fd, 4, 0).startswith(_INFLATED):
            try:
                inflated = await inflate_archive(fd, limits)
            except InflateError as error:
                raise ArchiveError(f"archive cannot be inflated: {error}") from error
            archive.close()
            archive = TarArchive(inflated)
        await archive.index()
    except BaseException:
        archive.close()
        raise
    return archive


async def read_images(source: ArchiveSource, platform: Platform) -> list[FoundImage]:
    """All images of the archive that run on that platform.

    Raises ArchiveError or ImageFormatError; an archive without any image for this node is refused too.
    """
    if await source.find("oci-layout") is not None:
        images = await _layout_images(source, platform)
    elif await source.find("manifest.json") is not None:
        images = await _saved_images(source, platform)
    else:
        raise ArchiveError("archive has neither oci-layout (OCI) nor manifest.json (docker save)")
    if not images:
        raise ArchiveError(f"archive has no image for {platform}")
    return images


async def _document(source: ArchiveSource, name: str) -> bytes:
    extent = await source.find(name)
    if extent is None:
        raise ArchiveError(f"archive lacks {name}")
    if extent.size > oci_image.MAX_DOCUMENT:
        raise ArchiveError(f"{name} has {extent.size} bytes, at most {oci_image.MAX_DOCUMENT} are taken")
    return b"".join(extent.chunks())


async def _blob(source: ArchiveSource, descriptor: oci_image.Descriptor) -> bytes:
    name = blob_name(descriptor.digest)
    data = await _document(source, name)
    if (digest := digest_of(data, descriptor.digest)) != descriptor.digest:
        raise ArchiveError(f"{name} has digest {digest}: the archive is damaged")
    if len(data) != descriptor.size:
        raise ArchiveError(f"{name} has {len(data)} bytes, its descriptor says {descriptor.size}")
    return data


def blob_name(digest: str) -> str:
    """Where an OCI layout keeps a blob."""
    return f"blobs/{digest.replace(':', '/')}"


async def _layout_images(source: ArchiveSource, platform: Platform) -> list[FoundImage]:
    oci_image.parse_layout(await _document(source, "oci-layout"), "oci-layout")
    data = await _document(source, "index.json")
    top = oci_image.parse_manifest(data, oci_image.OCI_INDEX, "index.json")
    assert isinstance(top, oci_image.Index)
    found: dict[str, FoundImage] = {}
    for entry in top.manifests:
        suits = oci_image.platform_matches(entry.platform, wire_platform(platform))
        if entry.is_attestation or not suits:
            continue
        image = await _layout_image(source, entry, platform)
        names = _names(image.id, found, [entry.name])
        found[image.id] = replace(image, names=names)
    if found and not any(image.names for image in found.values()):
        await _add_saved_names(source, found)
    return list(found.values())


async def _layout_image(source: ArchiveSource, entry: oci_image.Descriptor, platform: Platform) -> FoundImage:
    top_digest = Digest(entry.digest)
    indexes: list[bytes] = []
    for _ in range(4):  # an index may name an index; nobody nests deeper
        what = f"manifest {entry.digest}"
        data = await _blob(source, entry)
        document = oci_image.parse_manifest(data, entry.media_type, what)
        if isinstance(document, oci_image.Manifest):
            documents = ImageDocuments(await _blob(source, document.config), data)
            image = image_of(document, documents, top_digest, platform)
            layers = tuple(
                FoundLayer(layer.diff_id, layer.blob_digest, layer.size, blob_name(layer.place))
                for layer in image.layers
            )
            return replace(image, layers=layers, indexes=tuple(indexes))
        indexes.append(data)
        entry = oci_image.choose_manifest(document, wire_platform(platform), what)
    raise ArchiveError(f"indexes are nested too deep at {entry.digest}")


def _names(image: str, found: dict[str, FoundImage], names: list[str]) -> tuple[str, ...]:
    """The names an image had so far, and the new ones that are full names."""
    before = found[image].names if image in found else ()
    canonical = [name for text in names if (name := canonical_name(text)) is not None]
    return tuple(dict.fromkeys((*before, *canonical)))


async def _add_saved_names(source: ArchiveSource, found: dict[str, FoundImage]) -> None:
    """Docker writes an OCI layout and its own list side by side; only the list may have the names."""
    if await source.find("manifest.json") is None:
        return
    for entry in oci_image.parse_saved_images(await _document(source, "manifest.json"), "manifest.json"):
        identity = "sha256:" + posixpath.basename(entry.config).removesuffix(".json")
        if (image := found.get(identity)) is not None:
            names = _names(identity, found, list(entry.repo_tags or ()))
            found[identity] = replace(image, names=names)


async def _saved_images(source: ArchiveSource, platform: Platform) -> list[FoundImage]:
    entries = oci_image.parse_saved_images(await _document(source, "manifest.json"), "manifest.json")
    found: dict[str, FoundImage] = {}
    for entry in entries:
        image = await _saved_image(source, entry, platform)
        names = _names(image.id, found, list(entry.repo_tags or ()))
        found[image.id] = replace(image, names=names)
    return list(found.values())


async def _saved_image(source: ArchiveSource, entry: oci_image.SavedImage, platform: Platform) -> FoundImage:
    data = await _document(source, posixpath.normpath(entry.config))
    identity = digest_of(data)
    stem = posixpath.basename(entry.config).removesuffix(".json")
    if oci_image.is_digest(f"sha256:{stem}") and f"sha256:{stem}" != identity:
        raise ArchiveError(f"{entry.config} has digest {identity}: the archive is damaged")
    document = oci_image.parse_config(data, entry.config)
    check_platform(document, platform, entry.config)
    diff_ids = document.rootfs.diff_ids or ()
    if len(diff_ids) != len(entry.layers):
        raise ArchiveError(
            f"manifest.json lists {len(entry.layers)} layers, {entry.config} names {len(diff_ids)}"
        )
    layers = []
    for diff_id, path in zip(diff_ids, entry.layers, strict=True):
        place = posixpath.normpath(path)
        extent = await source.find(place)
        if extent is None:
            raise ArchiveError(f"archive lacks {place}")
        layers.append(FoundLayer(Digest(diff_id), None, extent.size, place))
    documents = ImageDocuments(config=data)
    return FoundImage(ImageId(identity), run_config(document), tuple(layers), None, documents=documents)
