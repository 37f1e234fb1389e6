"""Writing images to an archive: a tar of an OCI layout, or what `docker save` writes.

Layers are written uncompressed, as tars, so the manifest is a new one; the config is the image's own, byte
for byte, so that the image has the same id wherever it is loaded (see `layer_tars` for the exception). The
archive depends on nothing but the images: the same ones give the same bytes.

Sources: OCI image specification (image-layout.md, annotations.md); the `docker save` format, version 1.2.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crib.backends.failures import failure
from crib.backends.images.layer_tars import LayerTar, LayerTars
from crib.backends.new_files import NewFile
from crib.model.errors import Broken, Exhausted, InvalidRequest, WrongState
from crib.model.ids import Digest, digest_hex, digest_of
from crib.model.image import ExportedImage, parse_reference
from crib.wire import oci_image
from crib.wire.tar_member import Kind, Member
from crib.wire.tar_writer import END, member_header, padding

_log = logging.getLogger(__name__)

FORMATS = ("oci", "docker")
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_FULL_NAME, _REF_NAME = oci_image.NAME_ANNOTATIONS


@dataclass(frozen=True, slots=True)
class _Image:
    """An image as it will be in the archive."""

    config: bytes
    digest: str
    layers: tuple[LayerTar, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Document:
    """A small member, held in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def pieces(self) -> Iterator[bytes]:
        yield self.data


def export_images(path: str, images: Sequence[ExportedImage], archive_format: str, layers: LayerTars) -> int:
    """Write images to the new file `path` (absolute); returns its size in bytes.

    Blocks for as long as reading and writing all layers takes: for a thread. The file is written under
    another name beside it, mode 0600, synced, and gets its name only when it is whole; after a failure
    nothing is there. InvalidRequest for a path or format that cannot be, Exhausted when there is no room,
    Broken when a layer or document is damaged, WrongState when an image came without its documents.
    """
    if archive_format not in FORMATS:
        raise InvalidRequest(f"{archive_format!r} is not one of {', '.join(FORMATS)}", field="format")
    if not images:
        raise InvalidRequest("no image to export", field="images")
    with contextlib.closing(NewFile(path)) as file:
        tars: dict[Digest, LayerTar] = {}
        planned = [_plan(image, layers, tars) for image in images]
        members = _oci_members(planned) if archive_format == "oci" else _docker_members(planned)
        size = len(END) + sum(
            len(_header(name, member)) + member.size + padding(member.size)
            for name, member in members.items()
        )
        try:
            file.make_partial(size)
            _write_members(file.fd, members)
            file.finish()
        except OSError as error:
            kind = Exhausted if error.errno == errno.EFBIG else Broken
            raise failure(f"export to {path}", error, kind) from error
    return size


def check_place(path: str) -> None:
    """That a new file can come there. InvalidRequest as with `export_images`."""
    NewFile(path).close()


def _plan(image: ExportedImage, layers: LayerTars, tars: dict[Digest, LayerTar]) -> _Image:
    record, config = image.record, image.documents.config
    if not config:
        raise WrongState(
            f"image {record.id} came here before documents were kept: pull it again to export it"
        )
    digest: str = digest_of(config)
    if digest != record.id:
        raise Broken(f"image {record.id} cannot be exported: its config has digest {digest}")
    for layer in record.layers:
        if layer.diff_id not in tars:
            tars[layer.diff_id] = layers.tar_of(layer)
    chosen = tuple(tars[layer.diff_id] for layer in record.layers)
    if any(tar.diff_id != layer.diff_id for tar, layer in zip(chosen, record.layers, strict=True)):
        config = _with_layers(config, [tar.diff_id for tar in chosen])
        digest = digest_of(config)
        _log.warning("image %s is exported as %s: its layers' tars had to be rebuilt", record.id, digest)
    return _Image(config, digest, chosen, image.tags)


def _with_layers(config: bytes, diff_ids: list[Digest]) -> bytes:
    """The config with other layers; all else in it stays, also what is unknown here."""
    document: dict[str, Any] = json.loads(config)
    document["rootfs"]["diff_ids"] = diff_ids
    return _json(document)


def _oci_members(images: Sequence[_Image]) -> dict[str, _Document | LayerTar]:
    """What goes into the archive, by name, each blob once; documents first: readers find them soon."""
    blobs: dict[str, _Document | LayerTar] = {}
    entries = []
    for image in images:
        descriptors = [_descriptor(_LAYER, tar.diff_id, tar.size) for tar in image.layers]
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": oci_image.OCI_MANIFEST,
                "config": _descriptor(oci_image.OCI_CONFIG, image.digest, len(image.config)),
                "layers": descriptors,
            }
        )
        digest = digest_of(manifest)
        blobs[_blob(digest)] = _Document(manifest)
        blobs[_blob(image.digest)] = _Document(image.config)
        entry = {
            **_descriptor(oci_image.OCI_MANIFEST, digest, len(manifest)),
            "platform": _platform(image.config),
        }
        entries += [{**entry, "annotations": _annotations(tag)} for tag in image.tags] or [entry]
    index = {"schemaVersion": 2, "mediaType": oci_image.OCI_INDEX, "manifests": entries}
    tars = {_blob(tar.diff_id): tar for image in images for tar in image.layers}
    layout = _Document(b'{"imageLayoutVersion":"1.0.0"}')
    return {"oci-layout": layout, "index.json": _Document(_json(index)), **blobs, **tars}


def _docker_members(images: Sequence[_Image]) -> dict[str, _Document | LayerTar]:
    configs: dict[str, _Document | LayerTar] = {}
    tars: dict[str, _Document | LayerTar] = {}
    entries = []
    for image in images:
        config = f"{digest_hex(image.digest)}.json"
        paths = [f"{digest_hex(tar.diff_id)}/layer.tar" for tar in image.layers]
        configs[config] = _Document(image.config)
        tars |= zip(paths, image.layers, strict=True)
        entries.append({"Config": config, "RepoTags": list(image.tags) or None, "Layers": paths})
    return {"manifest.json": _Document(_json(entries)), **configs, **tars}


def _platform(config: bytes) -> dict[str, str]:
    document = oci_image.parse_config(config, "image config")
    platform = {"os": document.os, "architecture": document.architecture, "variant": document.variant}
    return {key: text for key, text in platform.items() if text}


def _annotations(tag: str) -> dict[str, str]:
    """containerd reads the full name, podman and skopeo the other; both are what containerd writes."""
    return {_FULL_NAME: tag, _REF_NAME: parse_reference(tag).tag}


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _header(name: str, member: _Document | LayerTar) -> bytes:
    return member_header(Member(name.encode(), Kind.FILE, 0o644, 0, 0, 0, 0, member.size, 0, 0))


def _write_members(fd: int, members: dict[str, _Document | LayerTar]) -> None:
    for name, member in members.items():
        _write(fd, _header(name, member))
        written = 0
        for piece in member.pieces():
            _write(fd, piece)
            written += len(piece)
        if written != member.size:
            raise Broken(f"{name} has {written} bytes, {member.size} were announced")
        _write(fd, bytes(padding(written)))
    _write(fd, END)


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
