"""What a request's values may look like. Each check returns the value or raises InvalidRequest.

How many there may be, and how long, is in `limits`. `field` is the path of the CRI field as a client writes
it, e.g. `config.mounts[2].host_path`.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from enum import IntEnum
from typing import NoReturn, TypeVar

from google.protobuf.message import Message

from crib.api.translate import limits
from crib.model.errors import InvalidRequest

MAX_UID = (1 << 32) - 2
"""Highest user or group id: the one above it means "none" to the kernel."""

_HOSTNAME = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\.?"
)
_SYSCTL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/-]*")
_CGROUP_FILE = re.compile(
    r"tasks|notify_on_release|release_agent"
    r"|(?:cgroup|cpu|cpuacct|cpuset|memory|blkio|io|pids|hugetlb|rdma|misc|devices|freezer|net_cls|net_prio"
    r"|perf_event|irq|dmem)\..*",
    re.DOTALL,
)
_HANDLER = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")

Enum = TypeVar("Enum", bound=IntEnum)
Values = TypeVar("Values", bound=Sized)


def refuse(field: str, problem: str) -> NoReturn:
    """Say that the value of a field cannot be taken."""
    raise InvalidRequest(problem, field=field)


def at_most(values: Values, limit: int, field: str) -> Values:
    """The items, if there are no more than one request may have."""
    if len(values) > limit:
        refuse(field, f"has {len(values)} entries, more than {limit}")
    return values


def short(text: str, limit: int, field: str) -> str:
    """A text of at most so many bytes."""
    # a character takes four bytes at most: only what could be too long is encoded
    if len(text) * 4 > limit and len(text.encode()) > limit:
        refuse(field, f"is longer than {limit} bytes")
    return text


def size(message: Message, field: str) -> None:
    """Bounds for a whole config, which is kept as long as its pod or container."""
    if (taken := message.ByteSize()) > limits.MAX_CONFIG:
        refuse(field, f"takes {taken} bytes, more than {limits.MAX_CONFIG}")


def identifier(text: str, field: str) -> str:
    """An id or the beginning of one; whether it is known is the engine's question."""
    if not text:
        refuse(field, "is empty")
    return prefix(text, field)


def prefix(text: str, field: str) -> str:
    """What ids may begin with; nothing is the beginning of all."""
    if len(text) > limits.MAX_ID:
        refuse(field, f"is longer than {limits.MAX_ID} characters")
    return text


def selector(values: Mapping[str, str], field: str) -> dict[str, str]:
    """Labels that a filter asks for."""
    return dict(at_most(values, limits.MAX_SELECTOR, f"{field}.label_selector"))


def words(values: Sequence[str], field: str) -> tuple[str, ...]:
    """A command's words, or a part of them."""
    at_most(values, limits.MAX_WORDS, field)
    return tuple(no_nul(short(value, limits.MAX_WORD, field), field) for value in values)


def name(text: str, field: str, *, required: bool = True) -> str:
    """A name that may become part of a path or a file's name."""
    short(text, limits.MAX_NAME, field)
    if not text and required:
        refuse(field, "is empty")
    if "/" in text or "\0" in text or text in (".", ".."):
        refuse(field, f"{text!r} is not a name: it has a slash or NUL, or is a dot name")
    return text


def handler(text: str) -> str:
    """A RuntimeClass's handler: empty (the default), or an RFC 1123 label."""
    if text and (len(text) > 63 or not _HANDLER.fullmatch(text)):
        refuse("runtime_handler", f"{text[:100]!r} is not an RFC 1123 label")
    return text


def hostname(text: str, field: str) -> str:
    """Empty, or a name that sethostname(2) accepts and RFC 1123 allows. It may end with a dot.

    A kubelet without a cluster domain sends such a name for `setHostnameAsFQDN`. The dot is kept, because
    the kubelet also writes it into the containers' /etc/hosts.
    """
    if text and (len(text) > 64 or not _HOSTNAME.fullmatch(text)):
        refuse(field, f"{text[:100]!r} is not a host name of at most 64 characters")
    return text


def no_nul(text: str, field: str) -> str:
    """A text that is given to the kernel as a C string."""
    if "\0" in text:
        refuse(field, "contains a NUL")
    return text


def line(text: str, field: str) -> str:
    """A word for a line of a file: no white space or control character, so that it cannot become two."""
    short(text, limits.MAX_LINE, field)
    if not text or not text.isprintable() or " " in text:
        refuse(field, f"{text!r} is empty or has white space or control characters")
    return text


def path(text: str, field: str) -> str:
    """Bounds that hold for every path."""
    short(text, limits.MAX_PATH, field)
    parts = text.split("/")
    if len(parts) > limits.MAX_PATH_DEPTH:
        refuse(field, f"has {len(parts)} parts, more than {limits.MAX_PATH_DEPTH}")
    for part in parts:
        if len(part) * 4 > limits.MAX_PATH_PART and len(part.encode()) > limits.MAX_PATH_PART:
            refuse(field, f"the part {part[:40]!r} is longer than {limits.MAX_PATH_PART} bytes")
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
    """Empty, a path below the cgroup root, or a slice's name; no part of it names one of a cgroup's files."""
    parts = path(text, field).split("/")
    if ".." in parts:
        refuse(field, f"{text!r} has a '..' in it")
    if "\n" in text:
        refuse(field, f"{text!r} has a line end in it, which the kernel takes in no cgroup's name")
    for part in parts:
        if _CGROUP_FILE.fullmatch(part) and not part.endswith(".slice"):
            refuse(field, f"{text!r}: {part!r} is the name of a file that cgroups have")
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
    if short(text, limits.MAX_LINE, field):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            refuse(field, f"{text!r} is not an IP address")
    return text


def sysctls(values: Mapping[str, str], field: str) -> dict[str, str]:
    """Names of sysctl files, with dots or slashes. Which a pod may set is for the handler to say."""
    for key, value in at_most(values, limits.MAX_SYSCTLS, field).items():
        if len(key) > limits.MAX_NAME or not _SYSCTL.fullmatch(key) or ".." in key:
            refuse(f"{field}[{key[:100]!r}]", "is not the name of a sysctl")
        if "\0" in value or "\n" in value or len(value) > limits.MAX_VALUE:
            refuse(f"{field}[{key!r}]", "has a value that is too long or has a NUL or line end in it")
    return dict(values)


def labels(of_labels: Mapping[str, str], of_annotations: Mapping[str, str], field: str) -> None:
    """Bounds for labels and annotations together: they are stored, listed and sent in every event."""
    total = 0
    for kind, values in (("labels", of_labels), ("annotations", of_annotations)):
        for key, value in at_most(values, limits.MAX_LABELS, f"{field}.{kind}").items():
            if not key or len(key) > limits.MAX_KEY:
                refuse(
                    f"{field}.{kind}", f"has a key that is empty or longer than {limits.MAX_KEY} characters"
                )
            total += len(key.encode()) + len(value.encode())
    if total > limits.MAX_TEXT:
        refuse(f"{field}.labels", f"labels and annotations take {total} bytes, more than {limits.MAX_TEXT}")


def distinct(values: Iterable[str], field: str, what: str) -> None:
    """Refuse a value that comes twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            refuse(field, f"{what} {value!r} appears twice")
        seen.add(value)
