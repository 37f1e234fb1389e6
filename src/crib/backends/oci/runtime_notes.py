"""The runtime that made a container, found again when its handler is no longer configured.

Beside each handler's state root lies a note of the program that works with it. So the default handler can
undo what another one made; where the program is gone too, its processes are ended and its traces removed
without it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable

from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.runtime_words import runtime_words
from crib.host.files import atomic_write, remove_tree
from crib.host.processes import RunOptions, run
from crib.model.paths import Paths

_log = logging.getLogger(__name__)
_LIMIT = 65536


def write_note(paths: Paths, handler: str, runtime: RuntimeProgram) -> None:
    """Remember with which program this handler's containers are made, before the first of them is."""
    document = {
        "program": runtime.program,
        "args": list(runtime.args),
        "systemd": runtime.systemd,
        "standIn": runtime.stand_in,
    }
    content = json.dumps(document).encode()
    path = _note(paths, handler)
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        if file.read(_LIMIT) == content:
            return
    atomic_write(path, content, 0o600)


def noted_handlers(paths: Paths) -> list[str]:
    """The names of all handlers that have made anything since the node was started."""
    try:
        with os.scandir(paths.runtime_root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []


def noted_program(paths: Paths, handler: str) -> RuntimeProgram:
    """The program that handler worked with last; without a note, one of the handler's name."""
    root = f"{paths.runtime_root}/{handler}"
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        with open(_note(paths, handler), "rb") as file:
            document = json.loads(file.read(_LIMIT))
        args = tuple(map(str, document["args"]))
        stand_in = str(document.get("standIn", ""))  # the note of an earlier crib has none
        return RuntimeProgram(str(document["program"]), root, args, bool(document["systemd"]), stand_in)
    return RuntimeProgram(handler, root)


def knowing(runtimes: Iterable[RuntimeProgram], name: str) -> tuple[RuntimeProgram, ...]:
    """Those that have a state of `name`. Blocks."""
    return tuple(runtime for runtime in runtimes if runtime.state_of(name))


async def delete_state(runtime: RuntimeProgram, name: str, timeout: float) -> None:
    """Ask a runtime that knows `name` to kill and remove it.

    Its failing is no failure of ours: what it made is found and removed without it too.
    """
    try:
        completed = await run(runtime.delete(name), timeout=timeout, options=RunOptions(owner=name))
    except OSError as error:  # the program may be gone, as its handler is
        _log.warning("delete of %s by %s: %s", name, runtime.program, error)
        return
    if completed.exit_code != 0 or completed.timed_out:
        words = runtime_words(completed.stderr.decode("utf-8", "replace"))
        _log.warning("delete of %s by %s: %s", name, runtime.program, words)


def forget_state(runtime: RuntimeProgram, name: str) -> None:
    """Remove what the runtime itself can no longer read, and would keep forever. Blocks."""
    for place in runtime.state_of(name):
        remove_tree(place)


def _note(paths: Paths, handler: str) -> str:
    return f"{paths.runtime_root}/{handler}.json"
