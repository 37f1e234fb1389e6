"""Programs that never ran: the runtime's words are in the container's own log, as the start had succeeded."""

from __future__ import annotations

from dataclasses import replace

from crib.backends.bundle.bundles import BundleNote
from crib.backends.runtime_words import refused_program
from crib.backends.streams.logs import read_words
from crib.model.container import Exit

_REFUSED_CODES = (1, 255)
"""What crun and runc end with when execve(2) of the container's program fails."""


async def with_refusal(found: Exit, note: BundleNote | None) -> Exit:
    """With those words, if that is how it ended. The exit is told whether or not the log can be read."""
    if note is None or not note.log_path or found.code not in _REFUSED_CODES:
        return found
    words = refused_program(await read_words(note.log_path, note.pod or found.id))
    return replace(found, never_ran=words)
