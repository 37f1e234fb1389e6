"""The registry's protocol without sockets: paths, challenges, error bodies (OCI distribution spec 1.1)."""

from __future__ import annotations

import re
from urllib.parse import urlencode, urlsplit

import msgspec

MAX_ERROR_BODY = 64 << 10
"""Bytes of an error's body that are looked at."""
MAX_TOKEN_BODY = 1 << 20
_MAX_MESSAGE = 500

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')


class Challenge(msgspec.Struct, frozen=True):
    """One challenge of WWW-Authenticate (RFC 9110, 11.6.1); names are lower-case."""

    scheme: str
    parameters: dict[str, str]


class TokenReply(msgspec.Struct, frozen=True):
    """A token server's answer (distribution's token specification): either field may carry the token."""

    token: str = ""
    access_token: str = ""


class _ErrorEntry(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    errors: tuple[_ErrorEntry, ...] | None = None


def manifest_path(repository: str, reference: str) -> str:
    """Path of a manifest; `reference` is a tag or a digest."""
    return f"/v2/{repository}/manifests/{reference}"


def blob_path(repository: str, digest: str) -> str:
    """Path of a blob."""
    return f"/v2/{repository}/blobs/{digest}"


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header; what cannot be read ends the list."""
    challenges: list[Challenge] = []
    position = 0
    while (match := _SCHEME.match(header, position)) is not None:
        position = match.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(header, position)) is not None:
            quoted, plain = parameter[2], parameter[3]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters[parameter[1].lower()] = value
            position = parameter.end()
        challenges.append(Challenge(match[1].lower(), parameters))
    return challenges


def token_url(challenges: list[Challenge], repository: str) -> str | None:
    """Where an anonymous token for pulling is to be had; None when no challenge is of the Bearer kind."""
    for challenge in challenges:
        realm = challenge.parameters.get("realm", "")
        if challenge.scheme != "bearer" or urlsplit(realm).scheme not in ("http", "https"):
            continue
        query = {"scope": challenge.parameters.get("scope") or f"repository:{repository}:pull"}
        if service := challenge.parameters.get("service"):
            query["service"] = service
        return f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(query)}"
    return None


def parse_token(body: bytes) -> str:
    """The token of a token server's answer; an empty text when there is none."""
    try:
        reply = msgspec.json.decode(body, type=TokenReply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return reply.token or reply.access_token


def error_text(body: bytes) -> str:
    """What a registry says went wrong, in one printable line (Error Codes); may be empty."""
    try:
        entries = msgspec.json.decode(body, type=_ErrorBody).errors or ()
        text = "; ".join(f"{entry.code}: {entry.message}".strip(": ") for entry in entries[:5])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = ""
    return "".join(char if char.isprintable() else " " for char in text)[:_MAX_MESSAGE]
