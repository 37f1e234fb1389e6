"""Reading what a manifest's translation needs to know of this node."""

from __future__ import annotations

import os
import sys

from crib.cli.manifest.plan import Dirs, HostDns, Site
from crib.cli.session import CommandError

MAX_MANIFEST = 1 << 20


def read_site(pods_dir: str) -> Site:
    """The node as it is now."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Site(Dirs(pods_dir), memory, _read_dns("/etc/resolv.conf"))


def read_manifest(path: str) -> str:
    """A manifest's text; `-` is standard input. CommandError when it cannot be read."""
    try:
        if path == "-":
            return sys.stdin.read(MAX_MANIFEST + 1)
        with open(path, encoding="utf-8") as file:
            return file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8 text") from None


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
