"""What a manifest and a config say, turned into our nouns; the same for registries and archives."""

from __future__ import annotations

from dataclasses import dataclass, field

from crib.backends.images.descent import run_config
from crib.model.errors import InvalidRequest
from crib.model.ids import Digest, ImageId, digest_of
from crib.model.image import (
    FetchedImage,
    ImageConfig,
    ImageDocuments,
    Layer,
    Platform,
    Signature,
    parse_reference,
)
from crib.wire import oci_image


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """A layer that an image needs: where its bytes are, and what they must turn out to be."""

    diff_id: Digest
    blob_digest: Digest | None
    """None when nothing says (docker save): then only the diff id is checked."""
    size: int
    """Bytes of the blob."""
    place: str
    """Name in the archive, or the blob's digest."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image before its layers are here."""

    id: ImageId
    config: ImageConfig
    layers: tuple[FoundLayer, ...]
    manifest_digest: Digest | None
    names: tuple[str, ...] = ()
    documents: ImageDocuments = field(default_factory=ImageDocuments)
    signatures: tuple[Signature, ...] = ()
    indexes: tuple[bytes, ...] = ()

    def fetched(self, layers: tuple[Layer, ...]) -> FetchedImage:
        """The same with its layers as they lie on disk."""
        return FetchedImage(
            *(self.id, self.config, layers, self.manifest_digest, self.names),
            documents=self.documents,
            signatures=self.signatures,
            indexes=self.indexes,
        )


def image_of(
    manifest: oci_image.Manifest, documents: ImageDocuments, manifest_digest: Digest, platform: Platform
) -> FoundImage:
    """The image that a manifest and its (already verified) config describe; `documents` are their bytes.

    Raises ImageFormatError when they do not fit together or the image is for another platform.
    """
    what = f"image config {manifest.config.digest}"
    document = oci_image.parse_config(documents.config, what)
    check_platform(document, platform, what)
    diff_ids = document.rootfs.diff_ids or ()
    if len(diff_ids) != len(manifest.layers):
        raise oci_image.ImageFormatError(
            f"{what} names {len(diff_ids)} layers but manifest {manifest_digest} has {len(manifest.layers)}"
        )
    layers = tuple(
        FoundLayer(Digest(diff_id), Digest(layer.digest), layer.size, layer.digest)
        for diff_id, layer in zip(diff_ids, manifest.layers, strict=True)
    )
    identity = ImageId(digest_of(documents.config))
    return FoundImage(identity, run_config(document), layers, manifest_digest, documents=documents)


def wire_platform(platform: Platform) -> oci_image.Platform:
    """The same as the documents have it; what is not named is Linux."""
    return oci_image.Platform(platform.architecture, platform.os or "linux", platform.variant)


def check_platform(document: oci_image.ConfigDocument, platform: Platform, what: str) -> None:
    """Refuse an image that is not for `platform`, naming both."""
    wanted = wire_platform(platform)
    own = oci_image.Platform(document.architecture, document.os, document.variant)
    # A config rarely names its variant, and where it does not, the index has the last word.
    silent = not own.variant and oci_image.platform_matches(
        oci_image.Platform(own.architecture, own.os, wanted.variant), wanted
    )
    if not silent and not oci_image.platform_matches(own, wanted):
        raise oci_image.ImageFormatError(f"{what} is for {own}, and {wanted} is wanted")


def canonical_name(text: str) -> str | None:
    """NAME:TAG in its canonical form; None for what is no full name (an OCI layout may carry a bare tag)."""
    if "/" not in text and ":" not in text:
        return None
    try:
        reference = parse_reference(text)
    except InvalidRequest:
        return None
    return f"{reference.name}:{reference.tag}" if reference.tag else None
