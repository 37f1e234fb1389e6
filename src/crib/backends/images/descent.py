"""From the digest that was asked for down to the layers: each document is the one that the document before it
names, by a digest that the daemon takes itself.

The worker reads manifests and configs, and hostile input may have taken it over. What the policy judges is a
digest; what runs is the config and the layers. This is what ties them together.
"""

from __future__ import annotations

from crib.model.errors import Broken
from crib.model.ids import digest_of
from crib.model.image import FetchedImage, ImageConfig
from crib.wire.oci_image import (
    ConfigDocument,
    ImageFormatError,
    Index,
    Manifest,
    RunConfig,
    parse_config,
    parse_manifest,
)


def check_descent(image: FetchedImage, *, layers: bool = True) -> None:
    """Broken when the image is not the one of its digest. For a thread: it hashes all documents, 8 MiB each.

    Without `layers` those of the image are not looked at. An image without a digest (`docker save`) has its
    config alone.
    """
    config = image.documents.config
    try:
        if image.manifest_digest is not None:
            _follow(image, image.manifest_digest)
        if (digest := str(digest_of(config))) != image.id:
            raise Broken(f"image worker gave a config of digest {digest} for image {image.id}")
        document = parse_config(config, f"config of image {image.id}")
    except ImageFormatError as error:
        raise Broken(f"image worker sent a malformed document: {error}") from error
    diff_ids = document.rootfs.diff_ids or ()
    if layers and diff_ids != tuple(layer.diff_id for layer in image.layers):
        raise Broken(f"image worker gave other layers than the config of image {image.id} names")
    if run_config(document) != image.config:
        raise Broken(f"image worker disagrees with the config of image {image.id}")


def _follow(image: FetchedImage, digest: str) -> None:
    """Over the indexes to the manifest, and from there to the config."""
    wanted = {digest}
    for data in (*image.indexes, image.documents.manifest):
        found = _met(data, wanted, image)
        document = parse_manifest(data, "", f"document {found}")
        entries = document.manifests if isinstance(document, Index) else (document.config,)
        wanted = {entry.digest for entry in entries}
    if not isinstance(document, Manifest):
        raise Broken(f"image worker gave an index as the manifest of {image.manifest_digest}")
    _met(image.documents.config, wanted, image)


def _met(data: bytes, wanted: set[str], image: FetchedImage) -> str:
    """The digest of a document, which has to be one of those that are wanted."""
    for algorithm in sorted({digest.partition(":")[0] for digest in wanted}):
        if (digest := digest_of(data, algorithm)) in wanted:
            return digest
    raise Broken(
        f"image worker gave a document of digest {digest_of(data)} that {image.manifest_digest} does not name"
    )


def run_config(document: ConfigDocument) -> ImageConfig:
    """What running a container needs of the config document."""
    config = document.config or RunConfig()
    return ImageConfig(
        entrypoint=config.entrypoint or (),
        cmd=config.cmd or (),
        env=config.env or (),
        user=config.user or "",
        working_dir=config.working_dir or "",
        stop_signal=config.stop_signal or "",
        volumes=tuple(sorted(config.volumes or {})),
        labels=config.labels or {},
        architecture=document.architecture,
        os=document.os,
    )
