"""The administrator's files about registries: read when they change, bounded, and never passed over.

If a file exists but cannot be used, the pull fails with Unavailable, which names the file and what is wrong
in it. Without the file, crib would ask other hosts than the administrator wants.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import time
from collections.abc import Callable
from typing import TypeVar, cast

from crib.backends.failures import failure
from crib.model.errors import Unavailable
from crib.model.registry import ClientCertificate

MAX_BYTES = 1 << 20
"""Bytes of one file."""
FILES_SECONDS = 10.0
"""For reading them, in a thread: any of them may be on a file system that does not answer."""
MAX_ENTRIES = 1000
"""Names in one directory that are looked at."""
_MAX_CACHED = 512
_SETTLED = 0.1
"""Seconds after which a file's time would show another write. A file younger than that is read again."""
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----\s*(.*?)-----END \1-----", re.DOTALL)

T = TypeVar("T")
_Stamp = tuple[int, int, int, int, int]


class ConfigFiles:
    """Parsed files, kept until they change on disk (inode, size, times). Threads may use one together."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[_Stamp, object]] = {}

    def load(self, path: str, parse: Callable[[bytes], T]) -> T | None:
        """What `parse`, which raises ValueError, makes of a file; None when there is no such file.

        Raises Unavailable.
        """
        key = path, parse.__qualname__
        kept = self._kept.get(key)
        try:
            if kept is not None and _stamp(os.stat(path)) == kept[0]:
                return cast(T, kept[1])  # the same function made it
            data, stamp, changed = _read(path)
        except (FileNotFoundError, NotADirectoryError):
            self._kept.pop(key, None)
            return None
        except OSError as error:
            raise failure(f"{path} cannot be read", error, Unavailable) from error
        try:
            value = parse(data)
        except ValueError as error:
            raise Unavailable(f"{path}: {error}") from error
        self._kept.pop(key, None)
        if abs(time.time() - changed) > _SETTLED:
            if len(self._kept) >= _MAX_CACHED:
                self._kept.clear()
            self._kept[key] = stamp, value
        return value

    def required(self, path: str, parse: Callable[[bytes], T], wanted_by: str) -> T:
        """As `load`; a missing file is Unavailable too, and names who wants it."""
        value = self.load(path, parse)
        if value is None:
            raise Unavailable(f"{path}, which {wanted_by} names, does not exist")
        return value

    def names(self, directory: str) -> list[str] | None:
        """Names in a directory, sorted; None when there is no such directory. Raises Unavailable."""
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise failure(f"{directory} cannot be read", error, Unavailable) from error
        if len(names) > MAX_ENTRIES:
            raise Unavailable(f"{directory} has {len(names)} entries, at most {MAX_ENTRIES} are looked at")
        return sorted(names)


def parse_authorities(data: bytes) -> str:
    """The certificates of a CA file in PEM. Raises ValueError."""
    text = _pem_text(data)
    if "CERTIFICATE" not in _pem_labels(text):
        raise ValueError("has no certificate in PEM")
    return text


def parse_certificate(data: bytes) -> ClientCertificate:
    """A client certificate's file, in which the key may be too. Raises ValueError."""
    return ClientCertificate(parse_authorities(data))


def parse_key(data: bytes) -> str:
    """A private key in PEM without a passphrase. Raises ValueError, which reveals nothing of it."""
    text = _pem_text(data)
    labels = _pem_labels(text)
    if any(label.startswith("ENCRYPTED") for label in labels) or "Proc-Type: 4,ENCRYPTED" in text:
        raise ValueError("has a private key with a passphrase, which crib cannot enter")
    if not has_key(text):
        raise ValueError("has no private key in PEM")
    return text


def has_key(text: str) -> bool:
    """Whether a PEM text has a private key in it."""
    return any(label.endswith("PRIVATE KEY") for label in _pem_labels(text))


def _pem_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not a PEM text") from None


def _pem_labels(text: str) -> list[str]:
    labels = []
    for label, body in _PEM.findall(text):
        # An old-style key has headers, which end at an empty line.
        encoded = "".join(body.rpartition("\n\n")[2].split())
        try:
            base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError(f"has a damaged {label} in it") from None
        labels.append(label)
    return labels


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: str) -> tuple[bytes, _Stamp, float]:
    """The content, the file's stamp before it was read, and when it last changed."""
    # Not to wait for a pipe's other end, if that is what it is.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Unavailable(f"{path} is not a regular file")
        data = bytearray()
        while chunk := os.read(fd, MAX_BYTES + 1 - len(data)):
            data += chunk
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise Unavailable(f"{path} is longer than {MAX_BYTES} bytes")
    return bytes(data), _stamp(status), max(status.st_mtime, status.st_ctime)
