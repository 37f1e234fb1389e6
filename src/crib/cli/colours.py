"""Whether a stream is written to in colours, and how.

By the conventions that programs share: NO_COLOR (no-color.org), CLICOLOR and CLICOLOR_FORCE
(bixense.com/clicolors), FORCE_COLOR (force-color.org), and a terminal that calls itself dumb.
"""

from __future__ import annotations

import os
from typing import IO

_CODES = {
    "": "",
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}
_NEIGHBOURS = ("cyan", "yellow", "magenta", "green", "blue")
"""Of things that are told apart, one after the other; red is for what is wrong."""
_GOOD = ("Ready", "Running", "yes", "ok")
_BAD = ("NotReady", "Unknown", "no", "Failed", "damaged", "wrong")


def wanted(stream: IO[str]) -> bool:
    """Whether what is written to the stream should have colours."""
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return os.environ.get("CLICOLOR") != "0" and can_move(stream)


def can_move(stream: IO[str]) -> bool:
    """Whether it is a terminal on which lines can be drawn again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, style: str) -> str:
    """The text between escape sequences (ECMA-48, SGR); without a style the text itself."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text else text


def of_one(text: str, place: int, stream: IO[str]) -> str:
    """The text in the colour of one of several things, if the stream is written to in colours."""
    return painted(text, _NEIGHBOURS[place % len(_NEIGHBOURS)]) if wanted(stream) else text


def style_of(cell: str) -> str:
    """Of a word for a state; most cells have none."""
    word = cell.split(" ", 1)[0]
    if word in _GOOD:
        return "green"
    return "red" if word in _BAD else "dim" if cell.startswith("Exited (0") else ""
