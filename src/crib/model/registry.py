"""Registries: who is asked for an image, in which order, and with which credentials."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field

HUB = "docker.io"
_HUB_NAMES = frozenset((HUB, "index.docker.io", "registry-1.docker.io"))


def canonical_registry(text: str) -> str:
    """HOST[:PORT] in the one spelling in which names, rules, mirrors and records are compared.

    In lower case and without the port that is asked anyway: 80 on the loopback interface, which is spoken to
    without TLS, 443 elsewhere. A port's zeros go, an IPv6 address is shortened. Docker Hub has one name.
    A host that only its port tells from a part of a path keeps it.
    """
    host, port = _split(text.lower())
    address = _address(host)
    if address is not None and address.version == 6:
        host = f"[{address.compressed}]"
    if port.isdecimal():
        port = str(int(port))
    is_host = "." in host or ":" in host or host == "localhost"
    if is_host and port == ("80" if is_loopback(host) else "443"):
        port = ""
    if host in _HUB_NAMES and not port:
        return HUB
    return f"{host}:{port}" if port else host


def is_loopback(authority: str) -> bool:
    """Whether HOST[:PORT] is on this machine's loopback interface, by its name alone."""
    host = _split(authority)[0]
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _split(authority: str) -> tuple[str, str]:
    if ":" not in authority.rpartition("]")[2]:
        return authority, ""
    host, _, port = authority.rpartition(":")
    return host, port


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


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
    """Bearer token, sent to the registry as it is."""

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
    """PEM texts of certificate authorities that are trusted beside the system's."""
    certificates: tuple[ClientCertificate, ...] = field(default=(), repr=False)
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with every request to this host, never to another that it redirects to."""
    connect_timeout: float = 10.0
    """Seconds to connect and get the head of a response."""
    credential: Credential = Credential()
