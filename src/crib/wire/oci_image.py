"""Documents that describe images: OCI and Docker manifests, indexes, configs, layouts and `docker save`
lists.

Sources: OCI image spec 1.1 (manifest.md, image-index.md, config.md, image-layout.md, annotations.md),
Docker's image manifest version 2 schema 2, and the `manifest.json` of `docker save`. Every function takes
bytes that may be hostile and raises `ImageFormatError`, which says what is wrong with which document;
nothing here reads or writes.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""What a request for a manifest says that it takes (distribution spec, Pulling manifests)."""

_LAYER_TYPES = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_FOREIGN_LAYER = re.compile(
    r"application/vnd\.oci\.image\.layer\.nondistributable\.v1\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.foreign\.diff\.tar(\.gzip|\.zstd)?"
)

MAX_DOCUMENT = 8 << 20
"""Bytes of one manifest, index or config at most; registries take 4 MiB."""
MAX_LAYERS = 500
"""Layers of one image at most: overlayfs takes no more (OVL_MAX_STACK)."""

MAX_MANIFESTS = 1000
"""Entries of an index or of docker save's list at most."""
MAX_NAMES = 1000
"""Names of one image in docker save's list at most."""
MAX_BLOB = 1 << 40
"""Bytes that a descriptor may claim."""
MAX_ITEMS = 10_000
"""Variables, labels, and words of a command of one image at most; no kernel takes more of the former."""
MAX_VOLUMES = 1000
"""Volumes of one image at most: each is a directory and a mount of every container."""

NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_ATTESTATION = "vnd.docker.reference.type"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_NO_DIGEST = "which is neither sha256 with 64 hex digits nor sha512 with 128"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_VARIANTS = {
    "amd64": ("v1", ("v4", "v3", "v2", "v1")),
    "arm": ("v7", ("v7", "v6", "v5")),
    "arm64": ("v8", ("v8",)),
}
"""By architecture: the variant if none is given, and the known ones, each of which runs all that follow."""
_NO_PLATFORM = 100

_SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
MAX_SIGNATURES = 20
"""Signatures of one image that are looked at."""
MAX_PAYLOAD = 64 << 10
"""Bytes of a signature's payload at most; cosign's has some 250."""


class ImageFormatError(ValueError):
    """A document is not what it must be; the text says which one and why."""


class Platform(msgspec.Struct, frozen=True):
    """What a manifest runs on (image-index.md, platform)."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A reference to a blob (descriptor.md)."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None

    @property
    def name(self) -> str:
        """The name that an archive's index gives it, or an empty text (annotations.md)."""
        annotations = self.annotations or {}
        return next((annotations[key] for key in NAME_ANNOTATIONS if annotations.get(key)), "")

    @property
    def is_attestation(self) -> bool:
        """Whether it is a builder's attestation and no image that can run."""
        return _ATTESTATION in (self.annotations or {})


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image of one platform (manifest.md)."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """A list of manifests (image-index.md)."""

    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str = ""


class RunConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """What the image says about running it (config.md, config). Null means absent everywhere."""

    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, object] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None


class RootFs(msgspec.Struct, frozen=True):
    """The layers by the digest of their tar, lowest first (config.md, rootfs)."""

    type: str = "layers"
    diff_ids: tuple[str, ...] | None = None


class ConfigDocument(msgspec.Struct, frozen=True):
    """The image config; its digest is the image's id."""

    architecture: str
    os: str
    rootfs: RootFs
    config: RunConfig | None = None
    variant: str = ""


class SavedImage(msgspec.Struct, frozen=True, rename="pascal"):
    """One entry of the `manifest.json` that `docker save` writes; the texts are paths in the archive."""

    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class Layout(msgspec.Struct, frozen=True, rename="camel"):
    """The `oci-layout` file (image-layout.md)."""

    image_layout_version: str


class _AnyManifest(msgspec.Struct, frozen=True, rename="camel"):
    """Only enough of a manifest to see what it claims to be."""

    schema_version: int = 0
    media_type: str = ""
    config: object = None
    layers: object = None
    manifests: object = None
    fs_layers: object = None


_Shape = TypeVar("_Shape")


def _decode(data: bytes, shape: type[_Shape], what: str) -> _Shape:
    if len(data) > MAX_DOCUMENT:
        raise ImageFormatError(f"{what} has {len(data)} bytes, more than {MAX_DOCUMENT}")
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageFormatError(f"{what} is malformed: {error}") from error


def is_digest(text: str) -> bool:
    """Whether the text is a digest of an algorithm that we take (descriptor.md, Registered algorithms)."""
    return _DIGEST.fullmatch(text) is not None


def parse_manifest(data: bytes, media_type: str, what: str) -> Manifest | Index:
    """A manifest or an index.

    `media_type` is what the registry or descriptor said of it, empty when nothing did. A document that can
    be read as both, or whose own media type says otherwise, is refused (CVE-2021-41190).
    """
    claim = _decode(data, _AnyManifest, what)
    if claim.schema_version == 1 or claim.fs_layers is not None:
        raise ImageFormatError(
            f"{what} is a Docker schema 1 manifest, which is not supported; push the image again"
        )
    if claim.schema_version != 2:
        raise ImageFormatError(f"{what} has schemaVersion {claim.schema_version} where 2 is expected")
    if claim.manifests is not None and (claim.config is not None or claim.layers is not None):
        raise ImageFormatError(f"{what} has both manifests and layers or config, so it can be read two ways")
    known = {text for text in (media_type, claim.media_type) if text in INDEX_TYPES | MANIFEST_TYPES}
    if claim.media_type and claim.media_type not in known:
        raise ImageFormatError(f"{what} has media type {claim.media_type!r}, which is not an image")
    if known & (MANIFEST_TYPES if claim.manifests is not None else INDEX_TYPES):
        raise ImageFormatError(f"{what} is said to be {', '.join(sorted(known))} but has other fields")
    if claim.manifests is not None:
        index = _decode(data, Index, what)
        _check_count(len(index.manifests), MAX_MANIFESTS, "manifests", what)
        _check_descriptors(index.manifests, what)
        return index
    manifest = _decode(data, Manifest, what)
    _check_manifest(manifest, what)
    return manifest


def _check_descriptors(descriptors: tuple[Descriptor, ...], what: str) -> None:
    for descriptor in descriptors:
        if not is_digest(descriptor.digest):
            raise ImageFormatError(f"{what} has digest {descriptor.digest[:150]!r}, {_NO_DIGEST}")
        if descriptor.size < 0:
            raise ImageFormatError(f"{what} has a negative size for {descriptor.digest}")
        _check_count(descriptor.size, MAX_BLOB, "bytes", f"{descriptor.digest} of {what}")


def _check_count(count: int, limit: int, things: str, what: str) -> None:
    if count > limit:
        raise ImageFormatError(f"{what} has {count} {things}, more than {limit}")


def _check_manifest(manifest: Manifest, what: str) -> None:
    _check_count(len(manifest.layers), MAX_LAYERS, "layers", what)
    _check_descriptors((manifest.config, *manifest.layers), what)
    if manifest.config.media_type not in CONFIG_TYPES:
        raise ImageFormatError(
            f"{what} has a config of type {manifest.config.media_type!r}, so it is not a runnable image"
        )
    if manifest.config.size > MAX_DOCUMENT:
        raise ImageFormatError(
            f"{what} has a config of {manifest.config.size} bytes, more than {MAX_DOCUMENT}"
        )
    for layer in manifest.layers:
        layer_compression(layer, what)


def layer_compression(layer: Descriptor, what: str) -> str:
    """How a layer says that it is compressed: gzip, zstd or an empty text."""
    if layer.urls or _FOREIGN_LAYER.fullmatch(layer.media_type):
        raise ImageFormatError(f"{what} has the foreign layer {layer.digest}, which is not supported")
    compression = _LAYER_TYPES.get(layer.media_type)
    if compression is None:
        raise ImageFormatError(f"{what} has a layer of type {layer.media_type!r}, which is not supported")
    return compression


def parse_config(data: bytes, what: str) -> ConfigDocument:
    """An image config; each diff id is a valid digest."""
    document = _decode(data, ConfigDocument, what)
    diff_ids = document.rootfs.diff_ids or ()
    _check_count(len(diff_ids), MAX_LAYERS, "layers", what)
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise ImageFormatError(f"{what} has diff id {diff_id[:150]!r}, {_NO_DIGEST}")
    config = document.config or RunConfig()
    for things, items in (
        ("variables", config.env),
        ("words of its entrypoint", config.entrypoint),
        ("words of its command", config.cmd),
        ("labels", config.labels),
    ):
        _check_count(len(items or ()), MAX_ITEMS, things, what)
    _check_count(len(config.volumes or ()), MAX_VOLUMES, "volumes", what)
    return document


def parse_saved_images(data: bytes, what: str) -> tuple[SavedImage, ...]:
    """The `manifest.json` of a `docker save` archive."""
    images = _decode(data, tuple[SavedImage, ...], what)
    _check_count(len(images), MAX_MANIFESTS, "images", what)
    for image in images:
        _check_count(len(image.repo_tags or ()), MAX_NAMES, "names for one image", what)
        _check_count(len(image.layers), MAX_LAYERS, "layers for one image", what)
    return images


def parse_layout(data: bytes, what: str) -> None:
    """Check the `oci-layout` file: version 1 is the only one there is."""
    version = _decode(data, Layout, what).image_layout_version
    if not version.startswith("1."):
        raise ImageFormatError(f"{what} has layout version {version!r} where 1 is expected")


def oci_architecture(machine: str) -> str:
    """OCI's name for what uname(2) calls `machine`; the same text where they agree."""
    return _ARCHITECTURES.get(machine, machine)


def platform_rank(platform: Platform | None, wanted: Platform) -> int | None:
    """How well an image for `platform` suits `wanted`: 0 is best, None not at all.

    Without a variant amd64 is v1, arm v7 and arm64 v8. A variant of amd64 or arm runs the lower ones too,
    and a later arm64 runs v8. A missing platform suits least: the config decides later.
    """
    if platform is None or (not platform.architecture and not platform.os):
        return _NO_PLATFORM
    if platform.os != wanted.os or platform.architecture != wanted.architecture:
        return None
    variants = _runnable(wanted)
    variant = platform.variant or _VARIANTS.get(platform.architecture, ("", ()))[0]
    return variants.index(variant) if variant in variants else None


def _runnable(wanted: Platform) -> tuple[str, ...]:
    """Variants that `wanted` runs, the best first."""
    default, order = _VARIANTS.get(wanted.architecture, ("", ()))
    variant = wanted.variant or default
    if variant in order:
        return order[order.index(variant) :]
    return (variant, "v8") if wanted.architecture == "arm64" else (variant,)


def platform_matches(platform: Platform | None, wanted: Platform) -> bool:
    """Whether `wanted` runs an image for `platform`."""
    return platform_rank(platform, wanted) is not None


def choose_manifest(index: Index, wanted: Platform, what: str) -> Descriptor:
    """The manifest of the index that suits best, the first of several (image-index.md)."""
    images = [entry for entry in index.manifests if not entry.is_attestation]
    suitable = [
        (rank, number)
        for number, entry in enumerate(images)
        if entry.media_type in MANIFEST_TYPES | INDEX_TYPES
        and (rank := platform_rank(entry.platform, wanted)) is not None
    ]
    if suitable:
        return images[min(suitable)[1]]
    offered = sorted({str(entry.platform) for entry in images if entry.platform is not None})
    raise ImageFormatError(
        f"{what} has nothing for {wanted}, only {', '.join(offered[:20])[:500] or 'nothing'}"
    )


def parse_signatures(data: bytes, what: str) -> tuple[tuple[Descriptor, str], ...]:
    """Payload and base64 signature of each entry of what cosign pushes (sigstore's signature specification).

    At most MAX_SIGNATURES. Entries of other kinds, without a signature or with too large a payload are left
    out, because they cannot be verified.
    """
    document = _decode(data, Manifest, what)
    _check_descriptors(document.layers, what)
    found = []
    for layer in document.layers:
        signature = (layer.annotations or {}).get(_SIGNATURE, "")
        if layer.media_type == _SIMPLE_SIGNING and signature and layer.size <= MAX_PAYLOAD:
            found.append((layer, signature))
    return tuple(found[:MAX_SIGNATURES])
