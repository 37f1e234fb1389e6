"""What a driver was asked for a volume, kept where the volume's files would be, until the volume has gone.

A driver finds what it has made by the request it was made with. When the answer got lost, only the very same
request finds it again, whatever has changed meanwhile in the settings or in what the driver can. So it is
noted before the call. Secrets are not in it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from crib.backends.failures import ours, trying
from crib.host.directories import make_directory
from crib.host.files import atomic_write
from crib.host.threads import Job
from crib.model.errors import Broken

M = TypeVar("M", bound=Message)

CREATION = "creation"
"""The request that the volume or snapshot was made by."""
ATTACHMENT = "attachment"
"""The request that detaches the volume from this node."""
GROWTH = "growth"
"""The request that the node's part of an expansion is still to be made by."""


class DriverNotes:
    """Of one volume or snapshot, in a directory of its own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    async def write(self, name: str, request: Message) -> None:
        """It outlives a power cut once this returns."""
        path = f"{self._directory}/{name}"
        with trying(what := f"writing {path}"):
            await ours(Job(what), _write, path, request.SerializeToString())

    async def read(self, name: str, kind: type[M]) -> M | None:
        """None where nothing was noted."""
        path = f"{self._directory}/{name}"
        with trying(what := f"reading {path}"):
            data = await ours(Job(what), _read, path)
        try:
            return None if data is None else kind.FromString(data)
        except DecodeError as error:
            raise Broken(f"{path} is damaged: {error}") from error

    async def drop(self, name: str) -> None:
        """The directory goes with the last of them."""
        path = f"{self._directory}/{name}"
        with trying(what := f"removing {path}"):
            await ours(Job(what), _drop, path)


def _write(path: str, data: bytes) -> None:
    make_directory(os.path.dirname(path), 0o700)
    atomic_write(path, data, 0o600, sync=True)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _drop(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with contextlib.suppress(OSError):  # another note is in it, or it is not there
        os.rmdir(os.path.dirname(path))
