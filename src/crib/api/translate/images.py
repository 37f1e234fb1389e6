"""Images: what the image calls name, and records to what the lists show."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crib.api.translate import checks, limits
from crib.model.image import FilesystemUsage, ImageRecord, Platform, PullOrder, parse_reference
from crib.model.registry import AuthConfig
from crib.model.sandbox import PodMetadata
from crib.stubs.runtime.v1 import api_pb2 as pb

_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9]+(?:/[a-z0-9]+)?")


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Asks for one image by name, digest or id; `verbose` adds the info that is for people."""

    image: str
    verbose: bool = False


PLATFORM_ANNOTATION = "io.crib.platform"
"""Key in ImageSpec.annotations: OS/ARCHITECTURE[/VARIANT] to pull instead of the node's own."""


@dataclass(frozen=True, slots=True)
class PullImage:
    """CRI PullImageRequest; `pod` is the one whose start waits for it, if the client says."""

    order: PullOrder
    pod: PodMetadata | None = None


def reference(message: pb.ImageSpec, field: str = "image.image") -> str:
    """The text that names an image; the engine parses it."""
    text = message.image
    if not text:
        checks.refuse(field, "is empty")
    return name(text, field)


def name(text: str, field: str) -> str:
    """Empty, or a text that may name an image."""
    if len(text) > limits.MAX_REFERENCE:
        checks.refuse(field, f"is longer than {limits.MAX_REFERENCE} characters")
    return checks.no_nul(text, field)


def decode_pull(message: pb.PullImageRequest) -> PullImage:
    order = PullOrder(
        parse_reference(reference(message.image)),
        _auth(message.auth),
        platform(message.image.annotations.get(PLATFORM_ANNOTATION, ""), "image.annotations"),
    )
    if not message.sandbox_config.HasField("metadata"):
        return PullImage(order)
    pod = message.sandbox_config.metadata
    field = "sandbox_config.metadata"
    for part in ("name", "uid", "namespace"):
        checks.short(getattr(pod, part), limits.MAX_NAME, f"{field}.{part}")
    return PullImage(order, PodMetadata(pod.name, pod.uid, pod.namespace, pod.attempt))


def _auth(message: pb.AuthConfig) -> AuthConfig:
    auth = AuthConfig(
        username=message.username,
        password=message.password,
        auth=message.auth,
        server_address=message.server_address,
        identity_token=message.identity_token,
        registry_token=message.registry_token,
    )
    for name in pb.AuthConfig.DESCRIPTOR.fields_by_name:
        secret(getattr(auth, name), f"auth.{name}")
    return auth


def secret(text: str, field: str) -> str:
    """A text that goes into a header one day. The error does not show it."""
    if len(text) > limits.MAX_SECRET:
        checks.refuse(field, f"is longer than {limits.MAX_SECRET} characters")
    if not text.isprintable():
        checks.refuse(field, "has control characters in it")
    return text


def platform(text: str, field: str) -> Platform:
    """OS/ARCHITECTURE[/VARIANT]; empty is the node's own."""
    if not text:
        return Platform()
    if not _PLATFORM.fullmatch(text):
        checks.refuse(field, f"{text[:100]!r} is not a platform: OS/ARCHITECTURE[/VARIANT]")
    os, architecture, variant = (*text.split("/"), "")[:3]
    if os != "linux":
        checks.refuse(field, f"{text!r} is not a platform of this node: only linux images are accepted")
    return Platform(architecture, os, variant)


def decode_remove(message: pb.RemoveImageRequest) -> str:
    return reference(message.image)


def decode_status(message: pb.ImageStatusRequest) -> ImageQuery:
    return ImageQuery(reference(message.image), message.verbose)


def decode_list(message: pb.ListImagesRequest | pb.StreamImagesRequest) -> str:
    """The image that the filter names; empty when everything is asked for."""
    return name(message.filter.image.image, "filter.image.image")


def encode(record: ImageRecord) -> pb.Image:
    """The image as lists and ImageStatus show it."""
    uid, username = user(record.config.user)
    return pb.Image(
        id=record.id,
        repo_tags=record.tags,
        repo_digests=record.digests,
        size=record.size,
        uid=None if uid is None else pb.Int64Value(value=uid),
        username=username,
        spec=pb.ImageSpec(image=record.id),
        pinned=record.pinned,
    )


def user(text: str) -> tuple[int | None, str]:
    """Uid or name of an image's USER (`user[:group]`, OCI image spec config.md).

    A number beyond 32 bits is no uid: the kubelet's runAsNonRoot check would take it for a user other than
    root, and an int that wraps may be root (CVE-2024-40635). Given as a name it is refused there.
    """
    name = text.partition(":")[0]
    if not name:
        return None, ""
    if name.isascii() and name.isdigit() and len(name) <= 10 and int(name) <= checks.MAX_UID:
        return int(name), ""
    return None, name


def encode_usage(usage: FilesystemUsage) -> pb.FilesystemUsage:
    return pb.FilesystemUsage(
        timestamp=usage.at,
        fs_id=pb.FilesystemIdentifier(mountpoint=usage.mountpoint),
        used_bytes=pb.UInt64Value(value=usage.used_bytes),
        inodes_used=pb.UInt64Value(value=usage.inodes_used),
    )
