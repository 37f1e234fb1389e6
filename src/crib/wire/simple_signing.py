"""What a cosign signature signs: a simple signing document, parsed without believing it.

Source: containers-signature(5) ("JSON data format"), as sigstore's signature specification uses it.
"""

from __future__ import annotations

import msgspec

TYPE = "cosign container image signature"
MAX_PAYLOAD = 64 << 10
"""Bytes of a payload at most; cosign's has some 250."""


class PayloadError(ValueError):
    """The payload is not a simple signing document of cosign's; the message says why."""


class Claim(msgspec.Struct, frozen=True):
    """What the signer says: this manifest is this image."""

    digest: str
    """Of the manifest or index."""
    repository: str
    """The name that it was signed under, without tag, as the signer wrote it; may be empty."""


class _Image(msgspec.Struct, frozen=True, rename="kebab"):
    docker_manifest_digest: str


class _Identity(msgspec.Struct, frozen=True, rename="kebab"):
    docker_reference: str = ""


class _Critical(msgspec.Struct, frozen=True):
    type: str
    image: _Image
    identity: _Identity = _Identity()


class _Document(msgspec.Struct, frozen=True):
    critical: _Critical


def parse_payload(payload: bytes) -> Claim:
    """The claim in a payload, whose signature is checked elsewhere; PayloadError."""
    if len(payload) > MAX_PAYLOAD:
        raise PayloadError(f"payload has {len(payload)} bytes, at most {MAX_PAYLOAD} are taken")
    try:
        critical = msgspec.json.decode(payload, type=_Document).critical
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"payload is malformed: {error}") from error
    if critical.type != TYPE:
        raise PayloadError(f"payload is of type {critical.type[:100]!r}, not {TYPE!r}")
    return Claim(critical.image.docker_manifest_digest, critical.identity.docker_reference)
