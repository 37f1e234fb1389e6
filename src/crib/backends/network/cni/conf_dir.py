"""The directory that holds CNI configurations: each valid file is a network, in lexical order.

It is read again whenever a file there has changed, as its stat signatures show; no watch is needed, because
nothing acts on a change before the next pod or Status call. A list may have more plugins in the directory of
its network's name beside it (CNI 1.1.0, `loadOnlyInlinedPlugins`); those files count too.

One configuration is ours. It is written from a template when the kubelet sends the node's pod ranges. The
template's fields are those of containerd, so that its templates work here unchanged: `.PodCIDR` is the first
range, `.PodCIDRRanges` are all of them, `.Routes` the default route of each family among them.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from crib.backends.failures import failure, trying, why
from crib.backends.network.pod_ranges import FIELD, ranges_of
from crib.host.directories import make_directory
from crib.host.files import atomic_write
from crib.model.errors import Broken, InvalidRequest
from crib.wire import cni
from crib.wire.go_template import TEMPLATE_BYTES, MalformedTemplate, render

_log = logging.getLogger(__name__)

SUFFIXES = (".conflist", ".conf", ".json")
FILES = 1000
SETTLED_NS = 50_000_000
"""What changed so shortly before it was read may have changed again under the same time stamp."""
_BESIDE = (".conf",)
FILE_NAME = "10-crib.conflist"
_SETTING = "network.cni_conf_template"
_DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


class NoNetworkConf(Exception):
    """There is no valid configuration; the message says why, file by file."""


@dataclass(frozen=True, slots=True)
class FoundNetwork:
    """A network and the file that says so."""

    conf: cni.NetworkConf
    path: str


@dataclass(frozen=True, slots=True)
class _FileSignature:
    path: str
    device: int
    inode: int
    changed: int
    size: int


class ConfDirectory:
    """The networks that the files in a directory configure; every look blocks."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._signatures: dict[str, tuple[_FileSignature, ...]] = {}
        self._read_at = 0
        self._networks: tuple[FoundNetwork, ...] = ()
        self._problems: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why files were skipped when `networks` last looked, each with its path."""
        return self._problems

    def networks(self) -> tuple[FoundNetwork, ...]:
        """The networks as the files are now, at least one. Raises NoNetworkConf."""
        with self._lock:  # not for two threads at once: one may be late
            if not self._is_as_read():
                self._read()
        if not self._networks:
            raise NoNetworkConf("; ".join(self._problems) or f"no network configuration in {self._path}")
        return self._networks

    def _is_as_read(self) -> bool:
        """Whether all directories are as they were, and were so for long enough when they were read."""
        if not self._signatures:
            return False
        try:
            is_same = all(self._look_again(directory) == were for directory, were in self._signatures.items())
        except OSError:
            return False
        newest = max((file.changed for were in self._signatures.values() for file in were), default=0)
        return is_same and newest < self._read_at - SETTLED_NS

    def _look_again(self, directory: str) -> tuple[_FileSignature, ...]:
        if directory == self._path:
            return _look(directory, SUFFIXES)
        try:
            return _look(directory, _BESIDE)
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def _read(self) -> None:
        self._signatures, self._read_at = {}, time.time_ns()
        found: dict[str, FoundNetwork] = {}
        problems: list[str] = []
        try:
            files = self._signatures[self._path] = _look(self._path, SUFFIXES)
        except OSError as error:
            files = ()
            problems.append(f"cannot read {self._path}: {why(error, self._path)}")
        for file in files:
            try:
                conf = cni.parse_network(_content(file.path), self._plugins_beside)
            except OSError as error:
                problems.append(f"{file.path}: {why(error, file.path)}")
            except cni.MalformedCni as error:
                problems.append(f"{file.path}: {error}")
            else:
                first = found.setdefault(conf.name, FoundNetwork(conf, file.path))
                if first.path != file.path:
                    problems.append(f"{file.path}: network {conf.name} is already that of {first.path}")
        now = tuple(found.values()), tuple(problems)
        if now != (self._networks, self._problems):
            self._networks, self._problems = now
            self._tell()

    def _plugins_beside(self, name: str) -> Iterator[tuple[str, bytes]]:
        directory = os.path.join(self._path, name)
        files = self._signatures[directory] = self._look_again(directory)
        for file in files:
            yield file.path, _content(file.path)

    def _tell(self) -> None:
        for problem in self._problems:
            _log.warning("cni configuration skipped: %s", problem)
        for network in self._networks:
            _log.info("cni network %s from %s", network.conf.name, network.path)


def _look(directory: str, suffixes: tuple[str, ...]) -> tuple[_FileSignature, ...]:
    """The files, in lexical order; one that cannot be looked at is among them, for its problem to be told."""
    found: list[_FileSignature] = []
    names = sorted(name for name in os.listdir(directory) if name.endswith(suffixes))
    for name in names[:FILES]:
        path = os.path.join(directory, name)
        try:
            status = os.stat(path)
        except OSError:
            found.append(_FileSignature(path, 0, 0, 0, 0))
            continue
        if stat.S_ISREG(status.st_mode):
            found.append(
                _FileSignature(path, status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size)
            )
    return tuple(found)


def _content(path: str) -> bytes:
    """The file's bytes, one more than a document may have if it is longer."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file.read(cni.DOCUMENT_BYTES + 1)


def fields_of(ranges: Sequence[str]) -> Mapping[str, str | Sequence[str]]:
    """What a template may name. Raises InvalidRequest naming the CRI field of a bad range, or of none."""
    texts = ranges_of(",".join(ranges))
    if not texts:
        raise InvalidRequest("no range", field=FIELD)
    families = {ip_network(text).version for text in texts}
    routes = [route for family, route in _DEFAULT_ROUTES.items() if family in families]
    return {"PodCIDR": texts[0], "PodCIDRRanges": texts, "Routes": routes}


def write_conf(template: str, conf_dir: str, ranges: Sequence[str]) -> bool:
    """Write FILE_NAME into `conf_dir`, made if it is missing; False if the file is so already.

    It is synced, which may block for long. Raises Broken naming the setting and the template, and
    InvalidRequest for a bad range.
    """
    fields = fields_of(ranges)
    try:
        conf = render(_read(template, TEMPLATE_BYTES).decode("utf-8"), fields).encode()
        cni.parse_network(conf)
    except OSError as error:
        raise failure(f"{_SETTING} {template}: cannot be read", error) from error
    except cni.MalformedCni as error:
        raise Broken(f"{_SETTING} {template}: its output is not a network: {error}") from error
    except (MalformedTemplate, UnicodeDecodeError) as error:
        raise Broken(f"{_SETTING} {template}: {error}") from error
    path = os.path.join(conf_dir, FILE_NAME)
    with trying(f"{_SETTING} {template}: write {path}"):
        if _has(path, conf):
            return False
        make_directory(conf_dir, 0o755)
        atomic_write(path, conf, 0o644, sync=True)
    return True


def _read(path: str, limit: int) -> bytes:
    """The file, with one byte more than the limit if it is longer."""
    with open(path, "rb") as file:
        return file.read(limit + 1)


def _has(path: str, content: bytes) -> bool:
    try:
        return _read(path, len(content)) == content
    except FileNotFoundError:
        return False
