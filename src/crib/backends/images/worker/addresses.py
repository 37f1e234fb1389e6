"""URLs of registries: what may be asked, where a redirect leads, and through which proxy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment, proxy_bypass

if TYPE_CHECKING:
    import yarl

_PLAIN = re.compile(r"[!-~]+")


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
