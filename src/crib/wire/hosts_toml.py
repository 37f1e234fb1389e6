"""hosts.toml: which hosts stand in for a registry (containerd, docs/hosts.md), read without any I/O.

Unlike containerd, which logs and ignores it, we refuse an invalid file. A configured mirror that is not
asked, or one that is trusted with tags because `capabilities` was misspelt, is worse than an error. Keys at
the root belong to `server` or, without one, to the registry itself.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from crib.wire.toml_table import MalformedToml, Table, without_login

DEFAULT_DIRECTORY = "_default"
"""Directory for the registries that have none of their own."""
MOST_HOSTS = 64
MOST_FILES = 64
MOST_HEADERS = 64
HEADER_BYTES = 8 << 10
LONGEST_TIMEOUT = 600.0
"""Seconds."""

_HOST_KEYS = (*("capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"),)
_ROOT_KEYS = ("server", "host", *_HOST_KEYS)
_CAPABILITIES = ("pull", "resolve", "push", "referrers")
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{0,9})?(?:ns|us|µs|μs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class HostEntry:
    """One host; paths are as written, relative ones are meant from the file's directory."""

    url: str
    """Up to and with the API's root, no slash at the end; empty: the registry itself."""
    pull: bool = True
    resolve: bool = True
    authorities: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()
    """Certificate and key; an empty key is in the certificate's file."""
    skip_verify: bool | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    dial_timeout: float | None = None
    """Seconds."""

    @property
    def has_tls(self) -> bool:
        """Whether something was said about TLS."""
        return bool(self.authorities or self.clients) or self.skip_verify is not None


@dataclass(frozen=True, slots=True)
class HostsFile:
    """`hosts` in the order of the file, then `server`."""

    hosts: tuple[HostEntry, ...]
    server: HostEntry


def directory_names(registry: str) -> tuple[str, ...]:
    """What the directory of a registry may be called, the first one that exists counts."""
    host, colon, port = registry.rpartition(":")
    if colon and host and port.isdigit():
        return f"{host}_{port}_", registry
    return (registry,)


def parse_hosts(data: bytes) -> HostsFile:
    """Read a hosts.toml. MalformedToml names the line or the key."""
    root = Table.of_document(data)
    root.only(_ROOT_KEYS)
    tables = root.table("host")
    if len(tables.content) > MOST_HOSTS:
        raise MalformedToml(f"host has {len(tables.content)} entries, at most {MOST_HOSTS} are taken")
    hosts = []
    for url in tables.content:
        table = tables.table(url)
        table.only(_HOST_KEYS)
        hosts.append(_entry(table, url, tables.name(url)))
    return HostsFile(tuple(hosts), _entry(root, root.string("server"), "server"))


def base_url(text: str, name: str, *, override_path: bool = False) -> str:
    """The API's root that a configured URL means; `name` is what a complaint calls it. MalformedToml.

    https where no scheme is written, and /v2 at the end unless it is there or `override_path`.
    """
    shown = f"{name} ({without_login(text)[:200]!r})"
    full = text if re.match(r"https?://", text, re.IGNORECASE) else f"https://{text}"
    try:
        parts = urlsplit(full)
        _ = parts.port  # refuses one beyond 65535
    except ValueError:
        raise MalformedToml(f"{shown} is not a URL") from None
    if "@" in parts.netloc:
        raise MalformedToml(f"{shown} has a user name in it; credentials belong in an auth file")
    if parts.query or parts.fragment or not full.isprintable() or " " in full:
        raise MalformedToml(f"{shown} must be a URL of scheme, host and path alone")
    if not _AUTHORITY.fullmatch(parts.netloc):
        raise MalformedToml(f"{shown} has no host that can be asked")
    path = posixpath.normpath(parts.path).rstrip("/") if parts.path else ""
    # normpath leaves two leading slashes alone, as POSIX wants
    path = f"/{path.lstrip('/')}" if path else ""
    if not override_path and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{path}"


def _entry(table: Table, url: str, name: str) -> HostEntry:
    override = table.boolean("override_path") or False
    capabilities = {word.lower() for word in table.strings("capabilities")}
    if unknown := sorted(capabilities - set(_CAPABILITIES)):
        raise MalformedToml(
            f"{table.name('capabilities')} has {unknown[0]!r}, known are {', '.join(_CAPABILITIES)}"
        )
    return HostEntry(
        url=base_url(url, name, override_path=override) if url else "",
        # An empty list means all, as in containerd.
        pull=not capabilities or "pull" in capabilities,
        resolve=not capabilities or "resolve" in capabilities,
        authorities=_authorities(table),
        clients=_clients(table),
        skip_verify=table.boolean("skip_verify"),
        headers=_headers(table.table("header")),
        dial_timeout=_timeout(table),
    )


def _authorities(table: Table) -> tuple[str, ...]:
    value = table.content.get("ca", [])
    files = (table.string("ca"),) if isinstance(value, str) else table.strings("ca")
    return tuple(_file(path, table.name("ca"), len(files)) for path in files)


def _clients(table: Table) -> tuple[tuple[str, str], ...]:
    name = table.name("client")
    value = table.content.get("client", [])
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise MalformedToml(f"{name} must be a path, an array of paths or an array of pairs of paths")
    return tuple(_pair(item, name, len(value)) for item in value)


def _pair(item: Any, name: str, count: int) -> tuple[str, str]:
    if isinstance(item, str):
        return _file(item, name, count), ""
    if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return _file(item[0], name, count), _file(item[1], name, count) if item[1] else ""
    raise MalformedToml(f"{name} must have paths or pairs of certificate and key")


def _file(path: str, name: str, count: int) -> str:
    if not path or not path.isprintable():
        raise MalformedToml(f"{name} has a path that is empty or has control characters in it")
    if count > MOST_FILES:
        raise MalformedToml(f"{name} names {count} files, at most {MOST_FILES} are taken")
    return path


def _headers(table: Table) -> tuple[tuple[str, str], ...]:
    headers: list[tuple[str, str]] = []
    for key, value in table.content.items():
        if not _HEADER_NAME.fullmatch(key):
            raise MalformedToml(f"{table.name(key)} is not a header's name")
        values = value if isinstance(value, list) else [value]
        for text in values:
            if not isinstance(text, str):
                raise MalformedToml(f"{table.name(key)} must be a string or an array of strings")
            # The value stays out of the message: it may be a token.
            if not text.isascii() or (text and not text.isprintable()):
                raise MalformedToml(f"{table.name(key)} has characters that a header cannot have")
            headers.append((key, text))
    size = sum(len(key) + len(text) for key, text in headers)
    if len(headers) > MOST_HEADERS or size > HEADER_BYTES:
        raise MalformedToml(f"{table.path} has more than {MOST_HEADERS} values or {HEADER_BYTES} bytes")
    return tuple(headers)


def _timeout(table: Table) -> float | None:
    text = table.string("dial_timeout")
    if not text:
        return None
    if _DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
        if 0 < seconds <= LONGEST_TIMEOUT:
            return seconds
    raise MalformedToml(
        f"{table.name('dial_timeout')} is {text[:50]!r}, and must be a duration such as 500ms, 3s or 1m30s"
    )
