"""Directories with a subdirectory for each registry: hosts.toml, or certificates alone as docker has them.

Layout: containerd's docs/hosts.md and containers-certs.d(5).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from crib.backends.images.registries.config_files import (
    ConfigFiles,
    has_key,
    parse_authorities,
    parse_certificate,
    parse_key,
)
from crib.model.errors import Unavailable
from crib.model.registry import ClientCertificate, is_loopback, port_of
from crib.wire.hosts_toml import (
    DEFAULT_DIRECTORY,
    MOST_FILES,
    HostEntry,
    HostsFile,
    directory_names,
    parse_hosts,
)

_HOSTS_TOML = "hosts.toml"


@dataclass(frozen=True, slots=True)
class Trust:
    """What TLS with one host is made with; texts in PEM."""

    authorities: tuple[str, ...] = field(default=(), repr=False)
    certificates: tuple[ClientCertificate, ...] = field(default=(), repr=False)
    skip_verify: bool = False
    configured: bool = False
    """Whether anybody said something about it: then the host speaks TLS."""


class HostsDirs:
    """The directories that the settings name."""

    def __init__(self, roots: Sequence[str], files: ConfigFiles) -> None:
        self._roots = tuple(roots)
        self._files = files

    def directory(self, registry: str, *, default: bool) -> str:
        """The directory for a registry; empty when there is none.

        With `default` that is `_default` for a registry that has none in any of the roots, unlike in
        containerd, where the first root's `_default` hides what a later root has for the registry.
        """
        if not registry or "/" in registry or registry.startswith("."):
            return ""
        names = directory_names(registry)
        if not port_of(registry) and not is_loopback(registry):
            # Names are without the port of TLS, but a directory may be called by it.
            names += directory_names(f"{registry}:443")
        tiers: list[tuple[str, ...]] = [names]
        if default:
            tiers.append((DEFAULT_DIRECTORY,))
        for names in tiers:
            for root in self._roots:
                for name in names:
                    if os.path.isdir(f"{root}/{name}"):
                        return f"{root}/{name}"
        return ""

    def hosts(self, directory: str) -> tuple[HostsFile, str] | None:
        """The directory's hosts.toml and its path; None when it has none. Raises Unavailable."""
        path = f"{directory}/{_HOSTS_TOML}"
        parsed = self._files.load(path, parse_hosts) if directory else None
        return None if parsed is None else (parsed, path)

    def trust_of(self, entry: HostEntry, directory: str) -> Trust:
        """What a host's entry in hosts.toml names. Raises Unavailable for a file that is not right."""
        by = f"{directory}/{_HOSTS_TOML}"
        return Trust(
            tuple(
                self._files.required(os.path.join(directory, path), parse_authorities, by)
                for path in entry.authorities
            ),
            tuple(
                self._client(os.path.join(directory, certificate), key and os.path.join(directory, key), by)
                for certificate, key in entry.clients
            ),
            skip_verify=bool(entry.skip_verify),
            configured=entry.has_tls,
        )

    def trust_for(self, host: str, *, default: bool = False) -> Trust:
        """What a directory without a hosts.toml has: *.crt authorities, *.cert and *.key for the client."""
        directory = self.directory(host, default=default)
        names = (self._files.names(directory) if directory else None) or []
        if _HOSTS_TOML in names:
            return Trust()
        authorities = [name for name in names if name.endswith(".crt")]
        clients = [name for name in names if name.endswith(".cert")]
        if len(authorities) + len(clients) > MOST_FILES:
            raise Unavailable(f"{directory} has more than {MOST_FILES} certificates")
        pairs = [(name, f"{name.removesuffix('.cert')}.key") for name in clients]
        return Trust(
            tuple(
                self._files.required(f"{directory}/{name}", parse_authorities, directory)
                for name in authorities
            ),
            tuple(
                self._client(
                    f"{directory}/{certificate}", f"{directory}/{key}" if key in names else "", directory
                )
                for certificate, key in pairs
            ),
            configured=bool(authorities or clients),
        )

    def _client(self, certificate: str, key: str, by: str) -> ClientCertificate:
        found = self._files.required(certificate, parse_certificate, by)
        if key:
            return ClientCertificate(found.certificate, self._files.required(key, parse_key, by))
        if not has_key(found.certificate):
            raise Unavailable(f"{certificate} has no private key in it, and {by} names no file with one")
        return found
