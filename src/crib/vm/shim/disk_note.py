"""What a container has as disks: a file in its bundle, which whoever runs the shim writes.

It is no annotation, because some of those are the pod's author's, who would choose files of the host. Without
the file a container has its root and all else by virtiofs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from crib.vm.shim.options import MOST_BYTES, OptionProblem

FILE = "disks.json"
"""In the bundle."""


@dataclass(frozen=True, slots=True)
class BlockVolume:
    """A block device of the host, and where the container has it."""

    path: str
    source: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class DiskNote:
    """Paths of the host."""

    layers: Sequence[str] = ()
    """Files with EROFS, the topmost first; none: the root comes by virtiofs."""
    disk: str = ""
    """With layers: a file with ext4 for what the container writes, with the directories `upper` and `work`.
    """
    volumes: Sequence[BlockVolume] = ()


def encode_note(note: DiskNote) -> bytes:
    """The file."""
    volumes = [{"path": one.path, "source": one.source, "readOnly": one.read_only} for one in note.volumes]
    return json.dumps({"layers": list(note.layers), "disk": note.disk, "volumes": volumes}).encode()


def read_note(bundle: str) -> DiskNote:
    """Of a bundle. Blocks. OptionProblem if it is not understood."""
    try:
        with open(os.path.join(bundle, FILE), "rb") as file:
            found = json.loads(file.read(MOST_BYTES))
    except FileNotFoundError:
        return DiskNote()
    except ValueError as error:
        raise OptionProblem(f"{FILE} is no JSON: {error}") from error
    try:
        volumes = [BlockVolume(one["path"], one["source"], one["readOnly"]) for one in found["volumes"]]
        note = DiskNote(tuple(found["layers"]), found["disk"], tuple(volumes))
    except (KeyError, TypeError) as error:
        raise OptionProblem(f"{FILE} is not understood: {error!r}") from error
    if bool(note.layers) != bool(note.disk):
        raise OptionProblem(f"{FILE}: layers need a disk, and a disk needs layers")
    return note
