"""What manifests need to know of this node."""

from __future__ import annotations

import os
import socket

from crib.manifest.plan import Dirs, HostDns, Site

_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses of documentation (RFC 5737, RFC 3849): the way to them is the default route."""


def read_site(pods_dir: str, *, hide_secrets: bool = False) -> Site:
    """The node as it is now. `hide_secrets`: for plans that are only shown."""
    return Site(
        Dirs(pods_dir),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        dns=_read_dns("/etc/resolv.conf"),
        cpus=os.cpu_count() or 1,
        node=socket.gethostname(),
        addresses=tuple(filter(None, (_own_address(family, peer) for family, peer in _ELSEWHERE))),
        hide_secrets=hide_secrets,
    )


def _own_address(family: socket.AddressFamily, peer: str) -> str:
    """The address that the node has towards another one; nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _read_dns(path: str) -> HostDns:
    """resolv.conf(5): the last search or domain line wins."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(64 << 10).splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, *values = line.split() or [""]
        if key == "nameserver":
            servers += values[:1]
        elif key in ("search", "domain"):
            searches = values
        elif key == "options":
            options += values
    return HostDns(tuple(servers), tuple(searches), tuple(options))
