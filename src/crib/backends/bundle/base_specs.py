"""Reading a handler's base spec."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from crib.backends.failures import failure
from crib.model.errors import Broken
from crib.ocispec.base_spec import usable_part

_log = logging.getLogger(__name__)
_LIMIT = 4 << 20


def read_base_spec(path: str, handler: str) -> Mapping[str, Any]:
    """What the handler's specs take from it; empty without a path. Broken names the file and the place."""
    if not path:
        return {}
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
        base, dropped = usable_part(_decoded(data))
    except OSError as error:
        raise failure(f"handler {handler}: base_spec {path}", error) from error
    except (ValueError, RecursionError) as error:
        raise Broken(f"handler {handler}: base_spec {path}: {error}") from error
    if dropped:
        _log.info("handler %s: not taken from base_spec %s: %s", handler, path, ", ".join(dropped))
    return base


def _decoded(data: bytes) -> dict[str, Any]:
    if len(data) > _LIMIT:
        raise ValueError(f"it is longer than {_LIMIT} bytes")
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the file is wrong, not our call
    return document
