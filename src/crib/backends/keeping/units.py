"""The files of kept pods, one for each, for root only: a manifest may hold secrets."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from crib.host.files import atomic_write
from crib.wire.kept import MAX_UNIT, Unit, decode_unit, encode_unit, unit_file

_log = logging.getLogger(__name__)


def read_units(directory: str) -> list[Unit]:
    """All, by namespace and name; a file that is none is logged. OSError."""
    return sorted(_units(directory), key=lambda unit: (unit.namespace, unit.name))


def _units(directory: str) -> Iterator[Unit]:
    for name in os.listdir(directory):
        if not name.endswith(".json") or name.startswith("."):
            continue
        path = f"{directory}/{name}"
        try:
            with open(path, "rb") as file:
                yield decode_unit(file.read(MAX_UNIT))
        except FileNotFoundError:
            continue  # forgotten meanwhile
        except ValueError as error:
            _log.error("%s is not a kept pod: %s", path, error)


def read_unit(directory: str, namespace: str, name: str) -> Unit | None:
    """The one of this name. OSError, ValueError."""
    try:
        with open(f"{directory}/{unit_file(namespace, name)}", "rb") as file:
            return decode_unit(file.read(MAX_UNIT))
    except FileNotFoundError:
        return None


def write_unit(directory: str, unit: Unit) -> None:
    """Atomically, and on disk when this returns: it has to be there after a power cut. OSError."""
    path = f"{directory}/{unit_file(unit.namespace, unit.name)}"
    atomic_write(path, encode_unit(unit), 0o600, sync=True)


def remove_unit(directory: str, namespace: str, name: str) -> bool:
    """False when there is none. OSError."""
    try:
        os.unlink(f"{directory}/{unit_file(namespace, name)}")
    except FileNotFoundError:
        return False
    return True
