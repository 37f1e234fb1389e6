"""A note of each shim in the bundle that it was started in: how the next daemon finds it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass

from crib.backends.shim.bootstrap import ShimAddress
from crib.host.files import atomic_write
from crib.model.sandbox import ProcessIdentity

_NAME = "shim.json"
_LIMIT = 65536


@dataclass(frozen=True, slots=True)
class ShimNote:
    """Where a shim listens, and who it is."""

    address: ShimAddress
    process: ProcessIdentity | None
    """None: it did not say."""


def write_note(bundle: str, note: ShimNote) -> None:
    """Blocks."""
    process = note.process
    document = {
        "socket": note.address.path,
        "version": note.address.version,
        "process": [process.pid, process.start_time] if process else None,
    }
    atomic_write(f"{bundle}/{_NAME}", json.dumps(document).encode(), 0o600)


def read_note(bundle: str) -> ShimNote | None:
    """None when there is none, or it is torn. Blocks."""
    try:
        with open(f"{bundle}/{_NAME}", "rb") as file:
            document = json.loads(file.read(_LIMIT))
        process = document["process"]
        return ShimNote(
            ShimAddress(str(document["socket"]), int(document["version"])),
            ProcessIdentity(int(process[0]), int(process[1])) if process else None,
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, IndexError):
        return None


def forget_note(bundle: str) -> None:
    """Safe to repeat. Blocks."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(f"{bundle}/{_NAME}")
