"""Images: what the image calls name, and records to what the lists show."""

from __future__ import annotations

from dataclasses import dataclass

from crib.api.translate import checks
from crib.model.image import FilesystemUsage, ImageRecord
from crib.model.sandbox import PodMetadata
from crib.stubs.runtime.v1 import api_pb2 as pb

MAX_REFERENCE = 4096
"""Longest text taken for an image's name; what is a valid one `model.image.parse_reference` says."""


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Asks for one image by name, digest or id; `verbose` adds the info that is for people."""

    image: str
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class PullImage:
    """CRI PullImageRequest; `pod` is the one whose start waits for it, if the client says."""

    image: str
    pod: PodMetadata | None = None


def reference(message: pb.ImageSpec, field: str = "image.image") -> str:
    """The text that names an image; the engine parses it."""
    text = message.image
    if not text:
        checks.refuse(field, "is empty")
    if len(text) > MAX_REFERENCE:
        checks.refuse(field, f"is longer than {MAX_REFERENCE} characters")
    return checks.no_nul(text, field)


def decode_pull(message: pb.PullImageRequest) -> PullImage:
    image = reference(message.image)
    if not message.sandbox_config.HasField("metadata"):
        return PullImage(image)
    pod = message.sandbox_config.metadata
    return PullImage(image, PodMetadata(pod.name, pod.uid, pod.namespace, pod.attempt))


def decode_remove(message: pb.RemoveImageRequest) -> str:
    return reference(message.image)


def decode_status(message: pb.ImageStatusRequest) -> ImageQuery:
    return ImageQuery(reference(message.image), message.verbose)


def decode_list(message: pb.ListImagesRequest | pb.StreamImagesRequest) -> str:
    """The image that the filter names; empty when everything is asked for."""
    return message.filter.image.image


def encode(record: ImageRecord) -> pb.Image:
    """As lists and ImageStatus show it."""
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
