"""The latest output of a container from its log, for who attaches later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from crib.wire.crilog import parse_line

REPLAY_LIMIT = 1 << 20
"""Bytes of output that are replayed at most, whatever is asked for."""
_FIRST_WINDOW = 64 << 10
_WINDOW_LIMIT = 64 << 20
"""Bytes of a log that are looked at: each line of it has some forty bytes beside its output."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line, or a part of one, with its newline if that was written."""

    stream: str
    content: bytes


def latest_output(log: int, size: int, most: int, known: Mapping[str, int]) -> dict[str, bytes]:
    """The last `most` bytes, by stream, that lie before `size` in an open log; at best whole lines.

    Of each stream the last `known` bytes are left out: they have come by another way.
    """
    most = min(most, REPLAY_LIMIT)
    wanted = most + sum(known.values())
    window = _FIRST_WINDOW + wanted
    while True:
        start = max(size - window, 0)
        pieces = _pieces(os.pread(log, size - start, start), whole=start == 0)
        if start == 0 or window >= _WINDOW_LIMIT or sum(len(one.content) for one in pieces) >= wanted:
            break
        window *= 2
    left = dict(known)
    parts: dict[str, list[bytes]] = {}
    room = most
    for piece in reversed(pieces):
        cut = min(left.get(piece.stream, 0), len(piece.content))
        left[piece.stream] = left.get(piece.stream, 0) - cut
        content = piece.content[: len(piece.content) - cut]
        if len(content) > room:
            if not parts:  # a line longer than all that is wanted
                parts[piece.stream] = [content[len(content) - room :]]
            break
        if content:
            parts.setdefault(piece.stream, []).append(content)
            room -= len(content)
    return {stream: b"".join(reversed(found)) for stream, found in parts.items()}


def _pieces(data: bytes, *, whole: bool) -> list[_Piece]:
    lines = data.split(b"\n")[0 if whole else 1 : -1]
    found = []
    for line in lines:
        try:
            entry = parse_line(line)
        except ValueError:
            continue
        found.append(_Piece(entry.stream, entry.content + (b"" if entry.partial else b"\n")))
    return found
