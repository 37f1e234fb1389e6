"""Auth files: docker's config.json, containers-auth.json(5), and what credential helpers answer (no I/O).

Keys of `auths` come in many forms: HOST, HOST/PATH, https://HOST/v1/, the names of Docker Hub, and globs
such as *.example.com, which match label by label as the kubelet does. Messages never contain a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from crib.wire.toml_table import without_login

DOCUMENT_BYTES = 1 << 20
MOST_ENTRIES = 10_000
SECRET_BYTES = 64 << 10
"""Longest password or token (a cloud's token has a few KiB)."""
HUB = "docker.io"
_HUB_NAMES = frozenset((HUB, "index.docker.io", "registry-1.docker.io"))
_HUB_SERVER = "https://index.docker.io/v1/"
_NOT_FOUND = "credentials not found"
_HELPER = re.compile(r"[A-Za-z0-9._-]{1,100}")


class MalformedAuth(ValueError):
    """An auth file, an entry or a helper's answer is not what it must be; names the key, never a value."""


@dataclass(frozen=True, slots=True)
class AuthEntry:
    """What one key gives."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def empty(self) -> bool:
        """Whether it gives nothing: docker leaves such entries for what a credential store has."""
        return not (self.username or self.password or self.identity_token or self.registry_token)


@dataclass(frozen=True, slots=True)
class AuthFile:
    """The parts of an auth file that count; keys of `entries` and `helpers` are normalized."""

    entries: Mapping[str, AuthEntry] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    """Host, or HOST/PATH, or glob to the helper's name."""
    store: str = ""
    """The helper for every other host."""

    def entry(self, host: str, path: str) -> tuple[str, AuthEntry] | None:
        """The entry for a repository at a host, and its key: the most specific one counts."""
        key = _most_specific(self.entries, host, path)
        return None if key is None else (key, self.entries[key])

    def helper(self, host: str, path: str) -> str:
        """The helper that is named for it; empty when none is."""
        key = _most_specific(self.helpers, host, path)
        return "" if key is None else self.helpers[key]


class _EntryShape(msgspec.Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


class _HelperShape(msgspec.Struct):
    Username: str = ""
    Secret: str = ""


def parse_auth_file(data: bytes) -> AuthFile:
    """Read an auth file; keys that are not about credentials are others' business. MalformedAuth."""
    document = _json_object(data)
    if not document.keys() & {"auths", "credHelpers", "credsStore"} and any(
        isinstance(value, dict) and "auth" in value for value in document.values()
    ):
        raise MalformedAuth("is in the format of a .dockercfg; its entries belong under auths")
    entries: dict[str, AuthEntry] = {}
    for key, value in _object(document, "auths").items():
        entry = _entry(value, f"auths[{_shown(key)}]")
        # Several spellings may name one host; one that gives something counts.
        if not entry.empty or normalized(key) not in entries:
            entries[normalized(key)] = entry
    helpers = {
        normalized(key): _helper_name(name, f"credHelpers[{_shown(key)}]")
        for key, name in _object(document, "credHelpers").items()
    }
    store = document.get("credsStore") or ""
    return AuthFile(entries, helpers, _helper_name(store, "credsStore") if store else "")


def normalized(key: str) -> str:
    """The HOST[:PORT][/PATH] that a key of an auth file, a server's address or a URL means."""
    text = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", key.strip())
    host, _, path = text.partition("/")
    host = host.lower().removesuffix(":443")
    if host in _HUB_NAMES:
        host = HUB
    path = re.sub(r"/+", "/", path).strip("/")
    if path in ("v1", "v2"):
        path = ""
    for version in ("v1/", "v2/"):
        path = path.removeprefix(version)
    return f"{host}/{path}" if path else host


def decode_basic(auth: str) -> tuple[str, str]:
    """User and password of an `auth` field, the base64 of USER:PASSWORD. MalformedAuth."""
    if len(auth) > 2 * SECRET_BYTES:
        raise MalformedAuth("is too long")
    try:
        # Some tools leave the padding out or use the URL's alphabet.
        plain = auth.strip().rstrip("=").translate(str.maketrans("-_", "+/"))
        text = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        raise MalformedAuth("is not base64 of USER:PASSWORD") from None
    username, colon, password = text.partition(":")
    if not colon:
        raise MalformedAuth("is base64 of something without a colon")
    return username, password.strip("\0")


def helper_server(host: str) -> str:
    """What a helper is asked for: Docker Hub has kept the address of its first API."""
    return _HUB_SERVER if normalized(host) == HUB else host


def parse_helper_answer(data: bytes) -> AuthEntry:
    """What `docker-credential-NAME get` answers (docker/docker-credential-helpers). MalformedAuth."""
    try:
        answer = msgspec.json.decode(data, type=_HelperShape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedAuth("is not a JSON object with Username and Secret") from None
    if len(answer.Secret) > SECRET_BYTES or len(answer.Username) > SECRET_BYTES:
        raise MalformedAuth(f"has a value longer than {SECRET_BYTES} bytes")
    if answer.Username == "<token>":
        return AuthEntry(identity_token=answer.Secret)
    return AuthEntry(answer.Username, answer.Secret)


def helper_knows_none(output: bytes) -> bool:
    """Whether a failed helper only says that it has no credentials for the server."""
    return output[:200].decode("utf-8", "replace").strip().lower().startswith(_NOT_FOUND)


def _json_object(data: bytes) -> dict[str, Any]:
    if len(data) > DOCUMENT_BYTES:
        raise MalformedAuth(f"is longer than {DOCUMENT_BYTES} bytes")
    if not data.strip():
        return {}
    try:
        document = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        # Its words are about the place in the text, and quote none of it.
        raise MalformedAuth(f"is not JSON: {error}") from None
    except (UnicodeDecodeError, RecursionError):
        raise MalformedAuth("is not JSON") from None
    if not isinstance(document, dict):
        raise MalformedAuth("is not a JSON object")
    return document


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedAuth(f"{key} must be an object")
    if len(value) > MOST_ENTRIES:
        raise MalformedAuth(f"{key} has {len(value)} entries, at most {MOST_ENTRIES} are taken")
    for name in value:
        if not normalized(name).partition("/")[0] or not name.isprintable():
            raise MalformedAuth(f"{key}[{_shown(name)}] names no host")
    return value


def _entry(value: Any, name: str) -> AuthEntry:
    try:
        shape = msgspec.convert(value, _EntryShape)
    except msgspec.ValidationError:
        raise MalformedAuth(f"{name} must be an object whose fields are strings") from None
    username, password = shape.username or "", shape.password or ""
    if shape.auth and not (username or password):
        try:
            username, password = decode_basic(shape.auth)
        except MalformedAuth as error:
            raise MalformedAuth(f"{name}.auth {error}") from None
    entry = AuthEntry(username, password, shape.identitytoken or "", shape.registrytoken or "")
    if max(map(len, (username, password, entry.identity_token, entry.registry_token))) > SECRET_BYTES:
        raise MalformedAuth(f"{name} has a value longer than {SECRET_BYTES} bytes")
    return entry


def _helper_name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise MalformedAuth(f"{where} must be a helper's name of letters, digits, '.', '_' and '-'")
    return name


def _shown(key: str) -> str:
    return repr(without_login(key)[:200])


def _most_specific(keys: Mapping[str, Any], host: str, path: str) -> str | None:
    """The key with the longest path that leads to HOST/PATH; before a glob, the host itself."""
    target = normalized(host)
    steps = path.split("/") if path else []
    for length in range(len(steps), -1, -1):
        tail = "".join(f"/{step}" for step in steps[:length])
        if f"{target}{tail}" in keys:
            return f"{target}{tail}"
        globs = [key for key in keys if _is_glob_for(key, target, tail)]
        if globs:
            return max(globs, key=lambda key: (len(key), key))
    return None


def _is_glob_for(key: str, host: str, tail: str) -> bool:
    pattern, slash, path = key.partition("/")
    if slash + path != tail or not set(pattern) & set("*?"):
        return False
    labels, wanted = host.split("."), pattern.replace("[", "[[]").split(".")
    return len(labels) == len(wanted) and all(map(fnmatchcase, labels, wanted))
