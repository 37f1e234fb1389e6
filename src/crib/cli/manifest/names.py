"""The names that Kubernetes allows (RFC 1123 labels and subdomains), since they become parts of paths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crib.cli.manifest.fields import ManifestError

if TYPE_CHECKING:
    from crib.cli.manifest.fields import ManifestNode

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,62}[A-Za-z0-9])?")
_ENV = re.compile(r"[^=\0]+")


def check_label(node: ManifestNode, name: str, default: str = "") -> str:
    """A required field that is an RFC 1123 label."""
    value = node.text(name) or default or node.need_text(name)
    if not _LABEL.fullmatch(value):
        raise ManifestError(
            node.at(name), f"{value!r} must be at most 63 of a-z, 0-9 and '-', not at its ends"
        )
    return value


def check_subdomain(node: ManifestNode, name: str) -> str:
    """A required field that is an RFC 1123 subdomain: labels with dots between them."""
    value = node.need_text(name)
    if len(value) > 253 or not all(_LABEL.fullmatch(part) for part in value.split(".")):
        raise ManifestError(node.at(name), f"{value!r} must be at most 253 of a-z, 0-9, '-' and '.'")
    return value


def is_uid(value: str) -> bool:
    """Whether a pod's uid may name a directory."""
    return bool(_UID.fullmatch(value))


def check_env_name(node: ManifestNode, name: str) -> str:
    """An environment variable's name."""
    value = node.need_text(name)
    if not _ENV.fullmatch(value):
        raise ManifestError(node.at(name), f"{value!r} is not the name of an environment variable")
    return value
