"""The registry's protocol without sockets: paths, challenges, tokens, ranges, error bodies.

Sources: OCI distribution spec 1.1 (Pulling), distribution's token and OAuth2 specifications, RFC 9110
(challenges 11.6.1, ranges 14, Retry-After 10.2.3). Whatever a server sends, nothing here raises.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

import msgspec

MAX_ERROR_BODY = 64 << 10
"""Bytes of an error's body that are looked at."""
MAX_TOKEN_BODY = 1 << 20
MIN_TOKEN_LIFE = 60.0
"""Seconds that every token lives at least, and when nothing says how long (token specification)."""
_MAX_TOKEN_LIFE = 24 * 3600.0
_MAX_TOKEN = 64 << 10
_MAX_MESSAGE = 500
_MAX_HEADER = 16 << 10
_MAX_RETRY_AFTER = 24 * 3600.0
_CLIENT_ID = "crib"

_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_QUERY = re.compile(r"\?[^\s'\"<>]*")
_AUTHORIZATION = re.compile(r"\b(Bearer|Basic)\s+[^\s,;]+", re.IGNORECASE)


class Challenge(msgspec.Struct, frozen=True):
    """One challenge of WWW-Authenticate (RFC 9110, 11.6.1); names are lower-case."""

    scheme: str
    parameters: dict[str, str]


class Token(msgspec.Struct, frozen=True):
    """A bearer token and for how many seconds it counts from now on."""

    value: str
    life: float


class _TokenReply(msgspec.Struct, frozen=True):
    """A token server's answer: either of two fields may carry the token."""

    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None
    issued_at: str | None = None


class _ErrorEntry(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    errors: tuple[_ErrorEntry, ...] | None = None


def manifest_path(repository: str, reference: str) -> str:
    """Path of a manifest below the API's root; `reference` is a tag or a digest."""
    return f"/{repository}/manifests/{reference}"


def blob_path(repository: str, digest: str) -> str:
    """Path of a blob below the API's root."""
    return f"/{repository}/blobs/{digest}"


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header; what cannot be read ends the list."""
    header = header[:_MAX_HEADER]
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


def choose_challenge(challenges: list[Challenge]) -> Challenge | None:
    """The one to answer: Bearer with a token server that can be asked, else Basic, else none."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and _is_http(challenge.parameters.get("realm", "")):
            return challenge
    return next((challenge for challenge in challenges if challenge.scheme == "basic"), None)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def token_url(challenge: Challenge, repository: str, account: str = "") -> str:
    """The URL of a GET for a pull token. `account` is the user, who authenticates separately."""
    realm = challenge.parameters.get("realm", "").partition("#")[0]
    query = token_query(challenge, repository)
    if account:
        query["account"] = account
    return f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"


def token_query(challenge: Challenge, repository: str) -> dict[str, str]:
    """What a token is asked for: service and scope."""
    query = {"scope": challenge.parameters.get("scope") or f"repository:{repository}:pull"}
    if service := challenge.parameters.get("service"):
        query["service"] = service
    return query


def refresh_form(query: dict[str, str], identity_token: str) -> dict[str, str]:
    """Body of an OAuth2 POST that changes a refresh token for an access token (RFC 6749, 6)."""
    return {
        **query,
        "grant_type": "refresh_token",
        "client_id": _CLIENT_ID,
        "refresh_token": identity_token,
    }


def password_form(query: dict[str, str], username: str, password: str) -> dict[str, str]:
    """Body of an OAuth2 POST that gives user and password (RFC 6749, 4.3)."""
    return {
        **query,
        "grant_type": "password",
        "client_id": _CLIENT_ID,
        "username": username,
        "password": password,
    }


def parse_token(body: bytes, now: float) -> Token | None:
    """The token of a token server's answer at the Unix time `now`; None when there is none to use."""
    try:
        reply = msgspec.json.decode(body, type=_TokenReply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    value = reply.token or reply.access_token or ""
    if not value or len(value) > _MAX_TOKEN or not value.isascii() or not value.isprintable() or " " in value:
        return None
    life = reply.expires_in if reply.expires_in is not None else MIN_TOKEN_LIFE
    if reply.issued_at:
        try:
            issued = datetime.fromisoformat(reply.issued_at)
            issued = issued if issued.tzinfo is not None else issued.replace(tzinfo=UTC)
            # Its clock may be wrong: that shortens the life to the least there is, and never lengthens it.
            life = min(life, issued.timestamp() + life - now)
        except (ValueError, OverflowError):
            pass
    return Token(value, min(max(life, MIN_TOKEN_LIFE), _MAX_TOKEN_LIFE))


def basic(username: str, password: str) -> str:
    """An Authorization header of the Basic scheme (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def parse_content_range(header: str) -> tuple[int, int, int | None] | None:
    """First byte, end (exclusive) and size of the whole, which may be unknown; None when it is malformed."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        return None
    first, end = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if end <= first or (total is not None and end > total):
        return None
    return first, end, total


def parse_retry_after(header: str, now: float) -> float | None:
    """Seconds to wait from the Unix time `now`, never negative; None when nothing usable is said."""
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:12]), _MAX_RETRY_AFTER)
    from email.utils import parsedate_to_datetime  # which few answers need

    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return min(max(at.timestamp() - now, 0.0), _MAX_RETRY_AFTER)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def error_text(body: bytes) -> str:
    """What a registry says went wrong, in one printable line (Error Codes); may be empty."""
    try:
        entries = msgspec.json.decode(body, type=_ErrorBody).errors or ()
        text = "; ".join(f"{entry.code}: {entry.message}".strip(": ") for entry in entries[:5])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = ""
    return printable(text)


def printable(text: str) -> str:
    """One line that may be shown: bounded, and without queries of URLs (signed ones are secrets) and
    credentials that a server repeats."""
    line = "".join(char if char.isprintable() else " " for char in text[: 8 * _MAX_MESSAGE])
    return _AUTHORIZATION.sub(r"\1 …", _QUERY.sub("?…", line))[:_MAX_MESSAGE]
