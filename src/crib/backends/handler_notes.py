"""Notes of handlers, by which one that is no longer configured is opened all the same.

It is needed then to stop and remove what it has made: the default handler knows neither shims nor an Engine.
A handler of kind `oci` has other notes (`oci.runtime_notes`), as any other of its kind does for it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict

from crib.host.files import atomic_write
from crib.model.docker_settings import DockerSettings
from crib.model.paths import Paths
from crib.model.settings import HandlerSettings
from crib.model.shim_settings import ShimSettings

_LIMIT = 65536
_ENDING = ".json"


def write_handler_note(paths: Paths, handler: str, options: HandlerSettings) -> None:
    """Before anything is made with these settings. Blocks."""
    shim = options.shim
    document = {
        "kind": options.kind,
        "runtime": shim.runtime,
        "options": dict(shim.options),
        "sandboxService": shim.sandbox_service,
        "sandboxContainer": options.sandbox_container,
        "docker": asdict(options.docker),
    }
    os.makedirs(paths.shims, mode=0o700, exist_ok=True)
    atomic_write(_path(paths, handler), json.dumps(document).encode(), 0o600)


def noted_handlers(paths: Paths) -> Mapping[str, HandlerSettings]:
    """Handlers that may have left something since the node was started, as they were. Blocks."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(paths.shims)):
            if name.endswith(_ENDING):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    found[name.removesuffix(_ENDING)] = _read(f"{paths.shims}/{name}")
    return found


def forget_handler(paths: Paths, handler: str) -> None:
    """It has left nothing. Safe to repeat. Blocks."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(paths, handler))


def _read(path: str) -> HandlerSettings:
    with open(path, "rb") as file:
        document = json.loads(file.read(_LIMIT))
    shim = ShimSettings(
        runtime=str(document["runtime"]),
        options=dict(document["options"]),
        sandbox_service=str(document["sandboxService"]),
    )
    kind = str(document.get("kind", "shim"))  # of an older daemon, which knew no other
    docker = DockerSettings(**document.get("docker", {}))
    container = str(document["sandboxContainer"])
    return HandlerSettings(kind=kind, sandbox_container=container, shim=shim, docker=docker)


def _path(paths: Paths, handler: str) -> str:
    return f"{paths.shims}/{handler}{_ENDING}"
