"""Registries: which hosts are asked for an image, in which order, and with which credentials."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from dataclasses import dataclass, field

HUB = "docker.io"
_HUB_NAMES = frozenset((HUB, "index.docker.io", "registry-1.docker.io"))
_OLD_ADDRESS = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")


@functools.lru_cache(maxsize=1024)
def canonical_registry(text: str) -> str:
    """HOST[:PORT] in the spelling in which names, rules, mirrors and records are compared.

    It is in lower case, without the default port: 80 on the loopback interface, which is contacted without
    TLS, and 443 elsewhere. Leading zeros of a port are removed, and an address is written as the kernel
    understands it (127.1 is 127.0.0.1, as is ::ffff:7f00:1). Docker Hub has one name. A host keeps its port
    if it would otherwise look like a part of a path.
    """
    host, port = _split(text.lower())
    address = _address(host)
    if address is not None:
        host = f"[{address.compressed}]" if address.version == 6 else str(address)
    if port.isdecimal():
        port = str(int(port))
    is_host = "." in host or ":" in host or host == "localhost"
    if is_host and port == ("80" if is_loopback(host) else "443"):
        port = ""
    if host in _HUB_NAMES and not port:
        return HUB
    return f"{host}:{port}" if port else host


def registry_pattern(text: str, *, whole: bool) -> str:
    """A HOST[:PORT] with `*` in it, or the beginning of one, as far as that has one spelling.

    It is compared with `spellings`. A host is known to be `whole` by what follows it, or by a port.
    """
    host = _split(text.lower())[0]
    end = text[len(host) :]
    if "*" not in host and (whole or end or host.endswith("]")):
        host = canonical_registry(host)
    return host + re.sub("^:0+(?=[0-9])", ":", end)


def spellings(registry: str) -> tuple[str, ...]:
    """All that differ from a canonical registry by the port that is asked anyway, or a name of Docker Hub."""
    if _split(registry)[1]:
        return (registry,)
    port = "80" if is_loopback(registry) else "443"
    hosts = sorted(_HUB_NAMES) if registry == HUB else (registry,)
    return tuple(f"{host}{end}" for host in hosts for end in ("", f":{port}"))


def is_loopback(authority: str) -> bool:
    """Whether HOST[:PORT] is on this machine's loopback interface, by its name alone."""
    host = _split(authority)[0]
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def port_of(authority: str) -> str:
    """The port as written; empty when there is none."""
    return _split(authority)[1]


def _split(authority: str) -> tuple[str, str]:
    if ":" not in authority.rpartition("]")[2]:
        return authority, ""
    host, _, port = authority.rpartition(":")
    return host, port


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return _old_address(host)
    # Linux connects to the IPv4 address within.
    return getattr(address, "ipv4_mapped", None) or address


def _old_address(host: str) -> ipaddress.IPv4Address | None:
    """What inet_aton(3), and so every resolver, takes for one: fewer than four parts, octal, hexadecimal."""
    if not _OLD_ADDRESS.fullmatch(host):
        return None
    try:
        *first, last = (
            int(part, 16 if part.startswith("0x") else 8 if part[0] == "0" else 10)
            for part in host.split(".")
        )
    except ValueError:
        return None
    if any(part > 255 for part in first) or last >= 256 ** (4 - len(first)):
        return None
    return ipaddress.IPv4Address(sum(part << 24 - 8 * at for at, part in enumerate(first)) + last)


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """CRI AuthConfig: what the caller of PullImage gives; secrets never show in a repr."""

    username: str = ""
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    """base64 of USERNAME:PASSWORD."""
    server_address: str = ""
    """The registry it is meant for; no other gets it then."""
    identity_token: str = field(default="", repr=False)
    """OAuth2 refresh token: changed for access tokens at the registry's token server."""
    registry_token: str = field(default="", repr=False)
    """Bearer token, sent to the registry unchanged."""

    def fingerprint(self) -> str:
        """Equal for equal credentials, and says nothing of them; empty when there are none."""
        parts = (
            *(self.username, self.password, self.auth),
            *(self.server_address, self.identity_token, self.registry_token),
        )
        if not any(parts):
            return ""
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


NO_AUTH = AuthConfig()


@dataclass(frozen=True, slots=True)
class Credential:
    """What one host gets. All empty: anonymous. A registry token goes before an identity token, that before
    a password."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    source: str = ""
    """Where it is from, for people: `request`, the auth file's path, a helper's name."""

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.username or self.password or self.identity_token or self.registry_token)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """PEM texts; the key may be in the certificate's text."""

    certificate: str
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RegistryHost:
    """One place that is asked for an image (containerd's hosts.toml; containers-registries.conf(5))."""

    url: str
    """Base URL up to and with the API's root: https://mirror.example/v2, without a slash at the end."""
    repository: str
    """The repository's name there: prefixes may be rewritten."""
    reason: str
    """Why it is asked, for people: which file or setting says so."""
    namespace: str = ""
    """The registry that the name means, sent as `?ns=` with every request (containerd's hosts.md): a mirror
    of several registries needs it. Empty: not sent."""
    is_origin: bool = False
    """Whether it is the registry that the image's name means."""
    resolves: bool = True
    """Whether it is asked for what a tag means; one that may not is asked by digest only."""
    pulls: bool = True
    """Whether it is asked for manifests by digest and for blobs."""
    authorities: tuple[str, ...] = field(default=(), repr=False)
    """PEM texts of certificate authorities that are trusted in addition to the system's."""
    certificates: tuple[ClientCertificate, ...] = field(default=(), repr=False)
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with every request to this host, never to another that it redirects to."""
    connect_timeout: float = 10.0
    """Seconds to connect and get the head of a response."""
    credential: Credential = Credential()
