"""What conmon says: the line on its sync pipe, the exit file, and the commands that its control fifo takes.

Source: conmon's src/parent_pipe_fd.c, src/conmon.c and src/ctrl.c (2.1).
"""

from __future__ import annotations

import re

import msgspec

MAX_SYNC_LINE = 64 << 10
"""Bytes of one sync message at most: conmon forwards at most 8 KiB of the runtime's words, escaped."""

REOPEN_LOG = b"2 0 0\n"
"""Makes conmon open its log file anew (under a temporary name, then renamed into place)."""

_EXIT = re.compile(rb"\s*(-?[0-9]{1,6})\s*")


class Sync(msgspec.Struct, frozen=True):
    """`pid` is the container's first process, or negative when the runtime failed; `message` is its words."""

    pid: int
    message: str = ""


def decode_sync(line: bytes) -> Sync:
    """One message of the sync pipe; ValueError when conmon ended without one or wrote something else."""
    try:
        return msgspec.json.decode(line.decode("utf-8", "replace"), type=Sync)
    except msgspec.DecodeError as error:
        raise ValueError(f"conmon's sync message {line[:200]!r} is not understood: {error}") from error


def decode_exit(data: bytes) -> int:
    """The exit code in an exit file, 0 to 255; ValueError when there is none in it."""
    match = _EXIT.fullmatch(data)
    if match is None:
        raise ValueError(f"exit file holds {data[:40]!r} instead of an exit code")
    code = int(match[1])
    # conmon writes -1 when it could not learn the status; callers know exit codes only as bytes.
    return code if 0 <= code <= 255 else 255
