"""registries.conf: where images come from, by prefix of their name (containers-registries.conf(5) v2).

Only what an already full image name needs is read: short names are resolved elsewhere and by other rules.
Two habits of the reference implementation that its authors call unintended are not kept: a prefix without a
port does not match a registry with one, and unknown keys are refused instead of passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from crib.wire.toml_table import MalformedToml, Table

AUTH_FILE = "containers-auth.json"
"""The entry of `credential-helpers` that means the auth file."""
MOST_REGISTRIES = 1000
MOST_MIRRORS = 64
MOST_HELPERS = 16

_ROOT_KEYS = (
    *("registry", "unqualified-search-registries", "credential-helpers", "short-name-mode", "aliases"),
    "additional-layer-store-auth-helper",
)
_MIRROR_KEYS = ("location", "insecure", "pull-from-mirror")
_REGISTRY_KEYS = ("prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "mirror")
_PULLS = ("all", "digest-only", "tag-only")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
_LOCATION = re.compile(rf"{_HOST}(?:/[A-Za-z0-9._/@:-]*)?")
_WILDCARD = re.compile(r"\*(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+")
_HELPER = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A place that stands in for a registry's prefix; `pull` is all, digest-only or tag-only."""

    location: str
    insecure: bool = False
    pull: str = "all"


@dataclass(frozen=True, slots=True)
class Registry:
    """What holds for the images whose names begin with `prefix`."""

    prefix: str
    location: str = ""
    """What the prefix is replaced by; empty (with a wildcard only): nothing."""
    insecure: bool = False
    """Plain http and unknown certificates are allowed."""
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """One file. `helpers` is None where the file does not set them."""

    registries: tuple[Registry, ...]
    helpers: tuple[str, ...] | None = None


def parse_registries(data: bytes) -> RegistriesConf:
    """Read a registries.conf or a drop-in. MalformedToml names the line or the key."""
    root = Table.of_document(data)
    if "registries" in root.content:
        raise MalformedToml(
            "registries: this is version 1 of the format, which has no mirrors; write [[registry]] tables"
        )
    root.only(_ROOT_KEYS)
    found: dict[str, Registry] = {}
    for table in root.tables("registry", MOST_REGISTRIES):
        registry = _registry(table)
        found.setdefault(registry.prefix, registry)  # the first of a prefix counts, as in the peers
    helpers = root.strings("credential-helpers") if "credential-helpers" in root.content else None
    for helper in helpers or ():
        if not _HELPER.fullmatch(helper) or len(helpers or ()) > MOST_HELPERS:
            raise MalformedToml(
                f"credential-helpers must be at most {MOST_HELPERS} names of letters, digits, '.', '_', '-'"
            )
    return RegistriesConf(tuple(found.values()), helpers)


def best_match(registries: Iterable[Registry], reference: str) -> Registry | None:
    """The registry with the longest prefix of `reference`, a full name with its tag or digest."""
    matching = [registry for registry in registries if _match(registry.prefix, reference) is not None]
    return max(matching, key=lambda registry: len(registry.prefix), default=None)


def rewritten(prefix: str, location: str, reference: str) -> str:
    """The name of `reference`, which `prefix` matches, at `location`; not validated."""
    length = _match(prefix, reference)
    if not location or length is None:
        return reference
    return location + reference[length:]


def _match(prefix: str, reference: str) -> int | None:
    """How many characters of `reference` the prefix covers; None if it does not match."""
    host = reference.partition("/")[0]
    if prefix.startswith("*."):
        name = re.sub(r":[0-9]+$", "", host)
        return len(name) if name.endswith(prefix[1:]) and len(name) >= len(prefix) else None
    if "/" not in prefix:
        return len(prefix) if host == prefix else None
    if reference == prefix:
        return len(prefix)
    goes_on = reference.startswith(prefix) and reference[len(prefix)] in "/:@"
    return len(prefix) if goes_on else None


def _registry(table: Table) -> Registry:
    if "pull-from-mirror" in table.content:
        raise MalformedToml(f"{table.name('pull-from-mirror')} is for mirrors only")
    table.only(_REGISTRY_KEYS)
    location = _location(table, "location")
    prefix = table.string("prefix").rstrip("/")
    wildcard = prefix.startswith("*")
    if wildcard and not _WILDCARD.fullmatch(prefix):
        raise MalformedToml(
            f"{table.name('prefix')} is {prefix[:200]!r}, and a wildcard must be like *.example.com"
        )
    if prefix and not wildcard:
        prefix = _location(table, "prefix")
    if not location and not wildcard:
        raise MalformedToml(
            f"{table.name('location')} is missing; only a prefix like *.example.com needs none"
        )
    by_digest = table.boolean("mirror-by-digest-only") or False
    return Registry(
        prefix=prefix or location,
        location=location,
        insecure=table.boolean("insecure") or False,
        blocked=table.boolean("blocked") or False,
        mirrors=tuple(_mirror(mirror, by_digest) for mirror in table.tables("mirror", MOST_MIRRORS)),
    )


def _mirror(table: Table, by_digest: bool) -> Mirror:
    table.only(_MIRROR_KEYS)
    location = _location(table, "location")
    if not location:
        raise MalformedToml(f"{table.name('location')} is missing")
    pull = table.string("pull-from-mirror")
    if by_digest and pull:
        raise MalformedToml(f"{table.name('pull-from-mirror')} cannot be set beside mirror-by-digest-only")
    if pull and pull not in _PULLS:
        raise MalformedToml(
            f"{table.name('pull-from-mirror')} is {pull[:50]!r}, known are {', '.join(_PULLS)}"
        )
    return Mirror(location, table.boolean("insecure") or False, "digest-only" if by_digest else pull or "all")


def _location(table: Table, key: str) -> str:
    text = table.string(key).rstrip("/")
    if not text:
        return ""
    if "://" in text:
        raise MalformedToml(f"{table.name(key)} must be HOST[:PORT][/PATH] without a scheme")
    host = text.partition("/")[0]
    if not _LOCATION.fullmatch(text) or not ("." in host or ":" in host or host == "localhost"):
        raise MalformedToml(f"{table.name(key)} must be HOST[:PORT][/PATH], its host with a dot or a port")
    return text
