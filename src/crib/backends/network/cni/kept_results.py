"""What was asked of CNI plugins for each pod, and what they answered, in one file a pod.

Written before ADD and again after it, so that DEL can be run with the same configuration and result
after a crash, a changed configuration or a reboot. Files are replaced whole; a torn one says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from crib.model.ids import SandboxId, is_id
from crib.wire import cni

_log = logging.getLogger(__name__)

_SUFFIX = ".json"
FILE_BYTES = 16 << 20


class TornFile(Exception):
    """A kept file cannot be read back."""


class _Shape(msgspec.Struct):
    network: dict[str, Any]
    interface: str
    args: dict[str, str]
    runtime_config: dict[str, Any]
    result: dict[str, Any] | None = None


class _FileShape(msgspec.Struct):
    attachments: list[_Shape]


@dataclass(frozen=True, slots=True)
class Kept:
    """One attachment of a pod; `result` is None until ADD has succeeded."""

    network: cni.NetworkConf
    interface: str
    args: Mapping[str, str]
    runtime_config: Mapping[str, Any]
    result: Mapping[str, Any] | None = None

    def grants(self, capability: str) -> bool:
        """Whether a plugin of the network was given this part of the runtime config."""
        return capability in self.runtime_config and any(
            capability in plugin.capabilities for plugin in self.network.plugins
        )


class KeptResults:
    """The files of one directory, which is made on first use; every call blocks."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        with contextlib.suppress(OSError):  # it is not there, or cannot be written: then they do no harm
            for name in os.listdir(directory):
                if name.endswith(f"{_SUFFIX}.new"):  # of a daemon that was killed while it wrote
                    os.unlink(os.path.join(directory, name))

    def write(self, pod: SandboxId, kept: Sequence[Kept]) -> None:
        """Replace the pod's file; attachments in the order of ADD."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        path = self._path(pod)
        shape = _FileShape([_shape(attachment) for attachment in kept])
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(shape))
        os.replace(f"{path}.new", path)

    def read(self, pod: SandboxId) -> tuple[Kept, ...]:
        """The pod's attachments, none if it has no file. Raises TornFile."""
        path = self._path(pod)
        try:
            with open(path, "rb") as file:
                shapes = _decoded(file.read(FILE_BYTES))
            return tuple(
                Kept(
                    cni.network_from_document(shape.network),
                    shape.interface,
                    shape.args,
                    shape.runtime_config,
                    shape.result,
                )
                for shape in shapes
            )
        except FileNotFoundError:
            return ()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, cni.MalformedCni) as error:
            raise TornFile(f"{path}: {error}") from error

    def read_all(self) -> dict[SandboxId, tuple[Kept, ...] | None]:
        """The attachments of every pod that has a file; None where that is torn."""
        found: dict[SandboxId, tuple[Kept, ...] | None] = {}
        for pod in self.pods():
            try:
                found[pod] = self.read(pod)
            except TornFile:
                found[pod] = None
        return found

    def remove(self, pod: SandboxId) -> None:
        """Forget the pod; none is fine. On a disk that takes no writes the file stays, for the next sweep.

        That runs DEL once more, which does no harm (CNI specification, DEL); a stop must not fail for it.
        """
        try:
            os.unlink(self._path(pod))
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("the network result of pod %s stays until the next sweep: %s", pod, error)

    def pods(self) -> list[SandboxId]:
        """The pods that have a file."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        ids = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return [SandboxId(found) for found in ids if is_id(found)]

    def _path(self, pod: SandboxId) -> str:
        if not is_id(pod):
            raise ValueError(f"{pod!r} is not a sandbox id")
        return os.path.join(self._directory, pod + _SUFFIX)


def _shape(kept: Kept) -> _Shape:
    return _Shape(
        network=dict(kept.network.raw),
        interface=kept.interface,
        args=dict(kept.args),
        runtime_config=dict(kept.runtime_config),
        result=None if kept.result is None else dict(kept.result),
    )


def _decoded(data: bytes) -> list[_Shape]:
    document = msgspec.json.decode(data, type=dict[str, Any])
    if "attachments" in document:
        shapes = msgspec.convert(document, _FileShape).attachments
    else:
        shapes = [msgspec.convert(document, _Shape)]  # written when a pod had one network
    if not shapes:
        raise msgspec.ValidationError("attachments is empty")
    return shapes
