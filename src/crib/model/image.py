"""Images: references, configurations, layers, records."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from crib.model.errors import InvalidRequest
from crib.model.ids import DIGEST_RULE, LONGEST_DIGEST, Digest, ImageId, is_digest
from crib.model.registry import HUB, NO_AUTH, AuthConfig, canonical_registry

_NAME = re.compile(
    r"(?:(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)/)?"
    r"(?P<path>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MAX_NAME = 255
"""Longest repository name in characters (OCI distribution spec, as every registry enforces it)."""
MAX_TEXT = MAX_NAME + len(":") + 128 + len("@") + LONGEST_DIGEST
"""Longest reference: name, tag and digest."""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A full image name: where it is kept, which repository, and which manifest of it.

    Parsed once, at the door; `str()` gives the canonical form (OCI distribution spec, Pulling manifests).
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def parse_reference(text: str, *, field: str = "image.image") -> ImageReference:
    """Parse an image name as docker, containerd and CRI-O do: `docker.io` and `latest` where none is given.

    The registry has one spelling from here on (`canonical_registry`), so that no rule is passed by another.
    Raises InvalidRequest, which names `field`, for anything that is no reference.
    """
    if len(text) > MAX_TEXT:
        raise InvalidRequest(f"is longer than {MAX_TEXT} characters", field=field)
    if is_digest(text):
        raise InvalidRequest(f"{text} is an image id, which no registry knows", field=field)
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise InvalidRequest(f"{text!r} has a digest {DIGEST_RULE}", field=field)
    tag = ""
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not _TAG.fullmatch(tag):
            raise InvalidRequest(f"{text!r} has a tag that is not valid", field=field)
    first, slash, _ = rest.partition("/")
    if not slash or not ("." in first or ":" in first or first.lower() == "localhost"):
        rest = f"{HUB}/{rest}"
    match = _NAME.fullmatch(rest)
    if match is None or match["host"] is None or len(rest) > MAX_NAME:
        raise InvalidRequest(f"{text!r} is not an image reference", field=field)
    registry, path = canonical_registry(match["host"]), match["path"]
    if registry == HUB and "/" not in path:
        path = f"library/{path}"
    if not tag and not digest:
        tag = "latest"
    return ImageReference(registry, path, tag, digest)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as we keep it: an EROFS file named by its diff id (OCI image spec, Layer DiffID)."""

    diff_id: Digest
    blob_digest: Digest
    """Digest of the blob as it was pulled (compressed), or the diff id after an import of plain tars."""
    size: int
    """Bytes of the layer's file."""
    data_size: int = 0
    """Bytes of the file's data, which begins at 4096."""
    data_digest: str = ""
    """Of the data: the diff id itself where the file holds the tar byte for byte, else a sha256."""
    rest_digest: str = ""
    """Of all else in the file: its first 4096 bytes, and what follows the data (`rest_digest`)."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What running a container needs of the image's config (OCI image spec, config.md)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""
    os: str = "linux"


@dataclass(frozen=True, slots=True)
class ImageDocuments:
    """An image's own documents, byte for byte as they came; an export gives them out again."""

    config: bytes = field(default=b"", repr=False)
    manifest: bytes = field(default=b"", repr=False)
    """Of this platform, empty after an import from a docker-archive."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A cosign signature (sigstore's signature specification): a payload, and who signed it is to be seen."""

    payload: bytes = field(repr=False)
    """Simple signing document (containers/image, container-signature(5)) that names the manifest's digest."""
    signature: str
    """base64."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on (OCI image spec, image-index.md); empty fields are the node's own."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class PullOrder:
    """What a pull is to bring."""

    reference: ImageReference
    auth: AuthConfig = NO_AUTH
    platform: Platform = Platform()
    again: frozenset[Digest] = frozenset()
    """Layers to fetch although they are on disk, because they are damaged."""
    signatures: bool = False
    """Whether to bring the image's signatures too."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image that can run: all of its layers are on disk before this is written."""

    id: ImageId
    config: ImageConfig
    layers: tuple[Layer, ...]
    """Lowest first."""
    tags: tuple[str, ...] = ()
    """NAME:TAG, canonical (CRI Image.repo_tags)."""
    digests: tuple[str, ...] = ()
    """NAME@sha256:… of manifests (CRI Image.repo_digests)."""
    created_at: int = 0
    """When it came here, not when it was built."""
    pinned: bool = False
    signatures: tuple[Signature, ...] = ()
    """Those that came with it, for the policy to look at again."""
    used_at: int = 0
    """When it was last pulled or a container was made of it, as far as that was written down."""

    @property
    def size(self) -> int:
        """Bytes on disk of all its layers."""
        return sum(layer.size for layer in self.layers)

    @property
    def chain_id(self) -> str:
        """Identifies the whole stack of layers (OCI image spec, config.md, Layer ChainID)."""
        chain = ""
        for layer in self.layers:
            both = f"{chain} {layer.diff_id}"
            chain = f"sha256:{hashlib.sha256(both.encode()).hexdigest()}" if chain else layer.diff_id
        return chain


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """What a pull or an import found, before it has a record: its layers are on disk and synced."""

    id: ImageId
    config: ImageConfig
    layers: tuple[Layer, ...]
    manifest_digest: Digest | None
    """None when the archive has no manifest of a registry's kind (docker save)."""
    names: tuple[str, ...] = ()
    """Names that the archive gives it, canonical NAME:TAG."""
    documents: ImageDocuments = ImageDocuments()
    signatures: tuple[Signature, ...] = ()
    """As the registry has them, not verified; only brought when the order asks for them."""
    indexes: tuple[bytes, ...] = field(default=(), repr=False)
    """From the document of `manifest_digest` down to the manifest; none when that is the manifest."""
    own_digest: Digest | None = None
    """Of the manifest itself, where indexes led to it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one layer is. `done` of `total` bytes; total 0 when it is not known."""

    stage: str
    """One of: resolving, waiting, downloading, importing, writing, done, present."""
    layer: str = ""
    done: int = 0
    total: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True)
class SuspectImage:
    """An image, and what it must pass before it may be used."""

    reference: ImageReference
    digest: Digest
    """Of the manifest that the registry served for the reference."""
    signatures: tuple[Signature, ...]
    keys: tuple[str, ...] = ()
    """Files with public keys (PEM), of which one must have signed; empty asks for no signature."""
    programs: tuple[str, ...] = ()
    """Verifier programs, each of which must accept it."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Bytes of a file system."""

    total: int
    free: int
    """What an unprivileged user may still take."""


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """Space that a directory takes (CRI FilesystemUsage)."""

    mountpoint: str
    used_bytes: int
    inodes_used: int
    at: int


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """An image to export, with its documents."""

    record: ImageRecord
    documents: ImageDocuments
    tags: tuple[str, ...]
    """NAME:TAG to write into the archive."""
