"""What a request's values may look like. Each check returns the value or raises InvalidRequest.

`field` is the path of the CRI field as a client writes it, e.g. `config.mounts[2].host_path`.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NoReturn, TypeVar

from crib.model.errors import InvalidRequest

MAX_NAME = 253
"""Longest name of a Kubernetes object (RFC 1123 subdomain)."""
MAX_TEXT = 1 << 20
"""Bytes that labels and annotations may take together."""
MAX_PATH = 4095
"""Longest path that the kernel takes (PATH_MAX without its NUL)."""
MAX_LABEL_KEY = 4096
MAX_UID = (1 << 32) - 2
"""Highest user or group id: the one above it means "none" to the kernel."""
MAX_ID = 128
"""Longest text taken for an id or the beginning of one; ours have 64 characters."""

_HOSTNAME = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\.?"
)
_SYSCTL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/-]*")
_HANDLER = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")

Enum = TypeVar("Enum", bound=IntEnum)


def refuse(field: str, problem: str) -> NoReturn:
    """Say that the value of a field cannot be taken."""
    raise InvalidRequest(problem, field=field)


def identifier(text: str, field: str) -> str:
    """An id or the beginning of one; whether it is known is the engine's question."""
    if not text:
        refuse(field, "is empty")
    if len(text) > MAX_ID:
        refuse(field, f"is longer than {MAX_ID} characters")
    return text


def words(values: Iterable[str], field: str) -> tuple[str, ...]:
    """A command's words, or a part of them."""
    return tuple(no_nul(value, field) for value in values)


def name(text: str, field: str, *, required: bool = True) -> str:
    """A name that may become part of a path or a file's name."""
    if not text and required:
        refuse(field, "is empty")
    if "/" in text or "\0" in text or text in (".", ".."):
        refuse(field, f"{text!r} is not a name: it has a slash or NUL, or is a dot name")
    if len(text) > MAX_NAME:
        refuse(field, f"is longer than {MAX_NAME} characters")
    return text


def handler(text: str) -> str:
    """A RuntimeClass's handler: empty (the default), or an RFC 1123 label."""
    if text and (len(text) > 63 or not _HANDLER.fullmatch(text)):
        refuse("runtime_handler", f"{text!r} is not an RFC 1123 label")
    return text


def hostname(text: str, field: str) -> str:
    """Empty, or what sethostname(2) takes and RFC 1123 allows; one dot may end it.

    A kubelet without a cluster domain sends such a name for `setHostnameAsFQDN`. The dot is kept, as it
    writes the name with it into the containers' /etc/hosts.
    """
    if text and (len(text) > 64 or not _HOSTNAME.fullmatch(text)):
        refuse(field, f"{text!r} is not a host name of at most 64 characters")
    return text


def no_nul(text: str, field: str) -> str:
    """A text that is given to the kernel as a C string."""
    if "\0" in text:
        refuse(field, "contains a NUL")
    return text


def line(text: str, field: str) -> str:
    """A word for a line of a file: no white space or control character, so that it cannot become two."""
    if not text or not text.isprintable() or " " in text:
        refuse(field, f"{text!r} is empty or has white space or control characters")
    return text


def path(text: str, field: str) -> str:
    """Bounds that hold for every path."""
    if len(text.encode(errors="surrogatepass")) > MAX_PATH:
        refuse(field, f"is longer than {MAX_PATH} bytes")
    return no_nul(text, field)


def absolute(text: str, field: str) -> str:
    """An absolute path without `..`, made clean (no doubled or trailing slashes, no dots)."""
    if not path(text, field).startswith("/"):
        refuse(field, f"{text!r} is not an absolute path")
    if ".." in text.split("/"):
        refuse(field, f"{text!r} has a '..' in it")
    return "/" + posixpath.normpath(text).lstrip("/")


def inside(text: str, field: str) -> str:
    """A relative path that stays in its directory, made clean."""
    if path(text, field).startswith("/"):
        refuse(field, f"{text!r} is not relative")
    if ".." in text.split("/"):
        refuse(field, f"{text!r} leads out of its directory")
    clean = posixpath.normpath(text)
    if clean == ".":
        refuse(field, f"{text!r} names the directory itself")
    return clean


def in_container(text: str, field: str) -> str:
    """A mount's place, never the root; a relative one counts from the container's root, as with the peers."""
    if not text:
        refuse(field, "is empty")
    clean = "/" + posixpath.normpath("/" + path(text, field)).lstrip("/")
    if clean == "/":
        refuse(field, f"{text!r} is the container's root")
    return clean


def cgroup_parent(text: str, field: str) -> str:
    """Empty, a path below the cgroup root, or a slice's name."""
    if ".." in path(text, field).split("/"):
        refuse(field, f"{text!r} has a '..' in it")
    return text


def number(value: int, low: int, high: int, field: str) -> int:
    """An integer within bounds, both included."""
    if not low <= value <= high:
        refuse(field, f"{value} is not between {low} and {high}")
    return value


def choice(kind: type[Enum], value: int, field: str, allowed: tuple[Enum, ...] = ()) -> Enum:
    """A value of an enum; protobuf hands unknown numbers through."""
    try:
        chosen = kind(value)
    except ValueError:
        refuse(field, f"{value} is not a {kind.__name__}")
    if allowed and chosen not in allowed:
        refuse(field, f"{chosen.name} is not possible here (only {', '.join(a.name for a in allowed)})")
    return chosen


def address(text: str, field: str) -> str:
    """Empty, or an IPv4 or IPv6 address."""
    if text:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            refuse(field, f"{text!r} is not an IP address")
    return text


def sysctls(values: Mapping[str, str], field: str) -> dict[str, str]:
    """Names of sysctl files, with dots or slashes. Which a pod may set is for the handler to say."""
    for key, value in values.items():
        if len(key) > MAX_NAME or not _SYSCTL.fullmatch(key) or ".." in key:
            refuse(f"{field}[{key!r}]", "is not the name of a sysctl")
        if "\0" in value or "\n" in value or len(value) > 4096:
            refuse(f"{field}[{key!r}]", "has a value that is too long or has a NUL or line end in it")
    return dict(values)


def labels(of_labels: Mapping[str, str], of_annotations: Mapping[str, str], field: str) -> None:
    """Bounds for labels and annotations together: they are stored, listed and sent in every event."""
    total = 0
    for kind, values in (("labels", of_labels), ("annotations", of_annotations)):
        for key, value in values.items():
            if not key or len(key) > MAX_LABEL_KEY:
                refuse(
                    f"{field}.{kind}", f"has a key that is empty or longer than {MAX_LABEL_KEY} characters"
                )
            total += len(key.encode()) + len(value.encode())
    if total > MAX_TEXT:
        refuse(f"{field}.labels", f"labels and annotations take {total} bytes, more than {MAX_TEXT}")


def distinct(values: Iterable[str], field: str, what: str) -> None:
    """Refuse a value that comes twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            refuse(field, f"{what} {value!r} comes twice")
        seen.add(value)
