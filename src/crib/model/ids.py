"""Identifiers: where they are born and what they may look like."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NewType

SandboxId = NewType("SandboxId", str)
ContainerId = NewType("ContainerId", str)
ImageId = NewType("ImageId", str)
"""`sha256:` and the hex digest of the image's config blob (OCI image spec, Image ID)."""
Digest = NewType("Digest", str)
"""`sha256:` and 64 hex digits, or `sha512:` and 128 (OCI image spec, Registered algorithms)."""
HandlerName = NewType("HandlerName", str)

_ID = re.compile(r"[0-9a-f]{64}")
_ALGORITHMS = {64: "sha256", 128: "sha512"}
"""By the number of hex digits."""
DIGEST_PATTERN = "|".join(f"{name}:[0-9a-f]{{{digits}}}" for digits, name in _ALGORITHMS.items())
DIGEST_RULE = "that is neither sha256 with 64 hex digits nor sha512 with 128"
"""What is said of any other."""
LONGEST_DIGEST = len("sha512:") + 128
_DIGEST = re.compile(DIGEST_PATTERN)


def new_sandbox_id() -> SandboxId:
    """A fresh id: 64 hex digits, as every CRI client expects."""
    return SandboxId(secrets.token_hex(32))


def new_container_id() -> ContainerId:
    """A fresh id: 64 hex digits, as every CRI client expects."""
    return ContainerId(secrets.token_hex(32))


def is_id(text: str) -> bool:
    """Whether the text can be a sandbox or container id of ours."""
    return _ID.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether the text is a digest that we take; nothing else may become part of a path."""
    return _DIGEST.fullmatch(text) is not None


def digest_hex(digest: str) -> str:
    """The digits of a digest. They represent it in file names, because their number shows the algorithm."""
    return digest.partition(":")[2]


def digest_from_hex(digits: str) -> Digest | None:
    """The digest that a file is named by; None when it is no such name."""
    digest = f"{_ALGORITHMS.get(len(digits), '')}:{digits}"
    return Digest(digest) if is_digest(digest) else None


def digest_of(data: bytes, like: str = "sha256") -> Digest:
    """The digest of a whole document, by the algorithm of the digest `like`, which must be one of ours."""
    algorithm = like.partition(":")[0]
    return Digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")
