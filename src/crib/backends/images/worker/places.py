"""Where an address is, and whether a registry may send us there.

A registry names token servers and redirects. A registry on the internet must not lead us to what only this
node or its network can reach: servers there do not expect strangers, and the answer of a token server is
handed on to the registry. So URLs are judged here too, and this module finds their proxies.
"""

from __future__ import annotations

import enum
import errno
import ipaddress
import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment, proxy_bypass

if TYPE_CHECKING:
    import yarl


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
"""Of Alibaba, Oracle, Amazon and Google; the others' are link-local."""
_MAX_PLACES = 1000
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PLAIN = re.compile(r"[!-~]+")


class Place(enum.Enum):
    """Who reaches an address; the values are for errors."""

    PUBLIC = "public"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    """Metadata servers of clouds and what is no address of a host, too."""
    LOOPBACK = "loopback"


def place_of(text: str) -> Place:
    """Where this address is (RFC 6890). ValueError when it is none."""
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if address.is_loopback or address.is_unspecified or address in ipaddress.ip_network("0.0.0.0/8"):
        # Linux treats the unspecified address as its own.
        return Place.LOOPBACK
    if address.is_link_local or address.is_multicast or address in _METADATA:
        return Place.LINK_LOCAL
    return Place.PUBLIC if address.is_global else Place.PRIVATE


def place_of_name(name: str) -> Place | None:
    """The same for a URL's host, as far as its text shows."""
    try:
        return place_of(name)
    except ValueError:
        local = name.rstrip(".").lower()
        return Place.LOOPBACK if local == "localhost" or local.endswith(".localhost") else None


def may_lead(registry: Place, target: Place, *, token: bool) -> bool:
    """Whether a registry may send us to an address: `token` says whether it gets the answer.

    Whoever is on this node or in its network may send us to the network. Blobs of a public registry may lie
    there too, as stores of clouds have private addresses; they are known by their digests and stay here.
    """
    if target is Place.PRIVATE:
        return not token or registry is not Place.PUBLIC
    return target in (Place.PUBLIC, registry)


def _inner(address: _Address) -> _Address:
    """The IPv4 address that is meant by some of IPv6."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


class Places:
    """Where registries were found, by their origin; of the unknown nothing good is assumed."""

    def __init__(self) -> None:
        self._found: dict[str, Place] = {}

    def found(self, origin: str, place: Place) -> None:
        """A connection was made."""
        while len(self._found) >= _MAX_PLACES and origin not in self._found:
            del self._found[next(iter(self._found))]
        self._found[origin] = place

    def of(self, origin: str) -> Place:
        """Where it was found."""
        return self._found.get(origin, Place.PUBLIC)


@dataclass(slots=True)
class Way:
    """One request: to the registry at `origin` itself (`own`), or to `host`, where that sends us."""

    places: Places
    origin: str
    host: str
    own: bool
    token: bool
    refused: str = ""
    """Why it was not asked."""

    def check(self, place: Place, address: str) -> None:
        """OSError when it must not lead there."""
        registry = self.places.of(self.origin)
        if self.own or may_lead(registry, place, token=self.token):
            return
        shown = self.host if address == self.host else f"{self.host} ({address})"
        self.refused = (
            f"leads to the {place.value} address of {shown},"
            f" where {'only a registry of the same network' if place is Place.PRIVATE else 'no registry'}"
            f" may send us; {self.origin} is {registry.value}"
        )
        raise OSError(errno.EACCES, self.refused)

    def arrived(self, place: Place, address: str) -> None:
        """A connection was made, or one of another request is there; the same errors."""
        if self.own:
            self.places.found(self.origin, place)
        self.check(place, address)
        self.refused = ""  # it was another address of the same name

    def check_name(self) -> None:
        """The same for a proxy, which resolves names itself: only what the name says can be judged."""
        if (place := place_of_name(self.host)) is not None:
            self.arrived(place, self.host)


WAY: ContextVar[Way | None] = ContextVar("way", default=None)
"""That of the running task."""


def address(text: str) -> yarl.URL:
    """A URL that can be asked, without user information. ValueError for others."""
    import yarl

    return _checked(yarl.URL(text))


def redirected(url: yarl.URL, location: str) -> yarl.URL:
    """Where a redirect from `url` leads. ValueError when it is nowhere to go, or out of https."""
    import yarl

    if not location:
        raise ValueError("has no Location")
    # As it is where possible: a signature counts for these very bytes.
    encoded = _PLAIN.fullmatch(location) is not None
    target = _checked(url.join(yarl.URL(location, encoded=encoded)))
    if url.scheme == "https" and target.scheme != "https":
        raise ValueError(f"redirects to plain http at {target.host}")
    return target


def proxy_of(url: yarl.URL) -> str | None:
    """The proxy that the environment names for this URL (http_proxy, https_proxy, no_proxy)."""
    proxies = getproxies_environment()
    if not proxies or proxy_bypass(f"{url.host}:{url.port}", proxies):
        return None
    return proxies.get(url.scheme)


def _checked(url: yarl.URL) -> yarl.URL:
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("leads to no address of http or https")
    return url.with_user(None)
