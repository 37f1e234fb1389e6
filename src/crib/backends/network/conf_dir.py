"""The directory that holds CNI configurations: the first valid file in lexical order is the network.

Read anew whenever a file there has changed, as its stat signatures tell; no watch is needed, because
nothing acts on a change before the next pod or Status call.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from typing import Final

from crib.wire import cni

_log = logging.getLogger(__name__)

SUFFIXES: Final = (".conflist", ".conf", ".json")
FILES: Final = 1000


class NoNetworkConf(Exception):
    """There is no valid configuration; the message says why, file by file."""


@dataclass(frozen=True, slots=True)
class _FileSignature:
    name: str
    inode: int
    changed: int
    size: int


class ConfDirectory:
    """The network that the files in a directory configure."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._signatures: tuple[_FileSignature, ...] | None = None
        self._network: cni.NetworkConf | None = None
        self._problem = ""

    def current(self) -> cni.NetworkConf:
        """The network in force now. Raises NoNetworkConf."""
        try:
            signatures = self._look()
        except OSError as error:
            self._signatures = None
            raise NoNetworkConf(f"cannot read {self._path}: {error.strerror}") from error
        if signatures != self._signatures:
            self._load(signatures)
            self._signatures = signatures
        if self._network is None:
            raise NoNetworkConf(self._problem)
        return self._network

    def _look(self) -> tuple[_FileSignature, ...]:
        found: list[_FileSignature] = []
        for name in sorted(os.listdir(self._path))[:FILES]:
            if not name.endswith(SUFFIXES):
                continue
            try:
                status = os.stat(os.path.join(self._path, name))
            except FileNotFoundError:
                continue  # gone since the listing, or a dangling link
            if stat.S_ISREG(status.st_mode):
                found.append(_FileSignature(name, status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def _load(self, signatures: tuple[_FileSignature, ...]) -> None:
        self._network = None
        problems: list[str] = []
        for signature in signatures:
            path = os.path.join(self._path, signature.name)
            try:
                with open(path, "rb") as file:
                    self._network = cni.parse_network(file.read(cni.DOCUMENT_BYTES + 1))
            except (OSError, cni.MalformedCni) as error:
                problems.append(f"{path}: {error}")
                _log.warning("cni configuration %s is skipped: %s", path, error)
                continue
            _log.info("cni network %s from %s", self._network.name, path)
            return
        self._problem = "; ".join(problems) or f"no network configuration in {self._path}"
