"""Identifiers: where they are born and what they may look like."""

from __future__ import annotations

import re
import secrets
from typing import NewType

SandboxId = NewType("SandboxId", str)
ContainerId = NewType("ContainerId", str)
ImageId = NewType("ImageId", str)
"""`sha256:` and the hex digest of the image's config blob (OCI image spec, Image ID)."""
Digest = NewType("Digest", str)
"""`sha256:` and 64 hex digits (OCI image spec, Digests)."""
HandlerName = NewType("HandlerName", str)

_ID = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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
    """Whether the text is a sha256 digest; nothing else may become part of a path."""
    return _DIGEST.fullmatch(text) is not None
