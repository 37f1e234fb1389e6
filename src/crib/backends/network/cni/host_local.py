"""The store of the host-local IPAM plugin, which has no GC: who holds which address, and giving back.

A directory for each network; in it a file for each address, named by the address and holding the container's
id and, on a second line, the interface (old plugins wrote the id alone). Besides there are `lock`, which the
plugin holds by flock(2) while it reserves or releases, and `last_reserved_ip.N`. Source:
plugins/ipam/host-local/backend/disk in containernetworking/plugins.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from crib.backends.failures import failure
from crib.model.errors import Unavailable
from crib.wire import cni

_log = logging.getLogger(__name__)

DEFAULT_DATA_DIR = "/var/lib/cni/networks"
ENTRIES = 200_000
CONTENT_BYTES = 4096
LOCK_SECONDS = 10.0
NESTING = 8
"""How deep in a plugin's configuration an `ipam` section is looked for (flannel's and multus' delegates)."""

_RETRY_SECONDS = 0.02
_LOCK = "lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Allocation:
    """An address that is held. `container_id` is empty if the file is torn, `interface` if it names none.

    `made_at_ns` is the wall clock's time of the file's last change.
    """

    address: str
    container_id: str
    interface: str
    made_at_ns: int
    path: str


@dataclass(frozen=True, slots=True)
class Store:
    """The addresses of one network. All calls block; they raise Broken naming the directory."""

    directory: str

    def allocations(self) -> list[Allocation]:
        """What is held now; nothing where there is no store. One being made may be seen torn."""
        try:
            with _opened(self.directory) as directory_fd:
                return [found for name in _names(directory_fd) if (found := self._read(directory_fd, name))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failure(f"read host-local store {self.directory}", error) from error

    def release(self, allocations: Sequence[Allocation]) -> list[Allocation]:
        """Give back those that are still held just so, and say which; under the plugin's lock.

        Raises Unavailable if the lock is not had within LOCK_SECONDS.
        """
        released: list[Allocation] = []
        try:
            with _opened(self.directory) as directory_fd, self._locked(directory_fd):
                for allocation in allocations:
                    directory, name = os.path.split(allocation.path)
                    if directory != self.directory or self._read(directory_fd, name) != allocation:
                        continue
                    os.unlink(name, dir_fd=directory_fd)
                    released.append(allocation)
        except FileNotFoundError:
            pass  # there is no store any more
        except OSError as error:
            raise failure(f"release in host-local store {self.directory}", error) from error
        return released

    def _read(self, directory_fd: int, name: str) -> Allocation | None:
        """What the file of that name says; None if it is no plain file named by an address."""
        if not _is_address(name):
            return None
        try:
            fd = os.open(name, _FILE, dir_fd=directory_fd)
        except OSError:
            return None  # given back meanwhile, or a link
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > CONTENT_BYTES:
                return None
            lines = os.read(fd, CONTENT_BYTES).decode("utf-8", "replace").strip().splitlines()
        finally:
            os.close(fd)
        container_id, interface = (*lines, "", "")[:2]
        path = os.path.join(self.directory, name)
        return Allocation(name, container_id.strip(), interface.strip(), status.st_mtime_ns, path)

    @contextlib.contextmanager
    def _locked(self, directory_fd: int) -> Iterator[None]:
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_LOCK, flags, 0o644, dir_fd=directory_fd)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"host-local store {self.directory} is locked for more than {LOCK_SECONDS:g} s"
                    )
                time.sleep(_RETRY_SECONDS)  # flock(2) knows no time-out
            yield
        finally:
            os.close(fd)


def stores_of(network: cni.NetworkConf) -> list[Store]:
    """The stores that the network's plugins, or those they delegate to, keep addresses in."""
    found: dict[str, None] = {}
    for plugin in network.plugins:
        for directory in _directories(plugin.raw, network.name, NESTING):
            found[directory] = None
    return [Store(directory) for directory in found]


def _directories(conf: Mapping[str, Any], network: str, depth: int) -> Iterator[str]:
    ipam = conf.get("ipam")
    # flannel writes the section for the plugin that it delegates to: host-local, unless it is told another.
    default = "host-local" if conf.get("type") == "flannel" else ""
    section = ipam if isinstance(ipam, dict) else {}
    if section.get("type", default) == "host-local":
        data_dir = section.get("dataDir") or DEFAULT_DATA_DIR
        if isinstance(data_dir, str) and os.path.isabs(data_dir) and "\0" not in data_dir:
            yield os.path.join(data_dir, network)
    if depth == 0:
        return
    for key, value in conf.items():
        for inner in value if isinstance(value, list) else [value]:
            if key != "ipam" and isinstance(inner, dict):
                yield from _directories(inner, _own_name(inner) or network, depth - 1)


def _own_name(conf: Mapping[str, Any]) -> str:
    """The network's name that a configuration within a configuration gives itself, if it does."""
    name = conf.get("name")
    return name if isinstance(name, str) and cni.is_name(name) else ""


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _names(directory_fd: int) -> list[str]:
    with os.scandir(directory_fd) as entries:
        names = [entry.name for entry in itertools.islice(entries, ENTRIES + 1)]
    if len(names) > ENTRIES:
        _log.warning("a host-local store has more than %d files; the rest is not checked", ENTRIES)
    return sorted(names[:ENTRIES])


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return "%" not in name


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
