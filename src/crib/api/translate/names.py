"""Names of pods and volumes, for parts of files' names. Each check returns the value or refuses it."""

from __future__ import annotations

import re

from crib.api.translate import checks

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_UID = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,62}[A-Za-z0-9])?")


def label(text: str, field: str) -> str:
    """An RFC 1123 label: a namespace, or a volume's name in its pod."""
    if not _NAMESPACE.fullmatch(text):
        checks.refuse(field, f"is {text[:100]!r}, not an RFC 1123 label")
    return text


def subdomain(text: str, field: str) -> str:
    """An RFC 1123 subdomain: the name of a pod or a volume."""
    if not _NAME.fullmatch(text):
        checks.refuse(field, f"is {text[:100]!r}, not an RFC 1123 subdomain")
    return text


def uid(text: str, field: str) -> str:
    """Of a pod."""
    if not _UID.fullmatch(text):
        checks.refuse(field, f"is {text[:100]!r}, not letters, digits and '-'")
    return text
