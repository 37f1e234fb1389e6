"""The keys of `crib top`, and what each of them changes."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace

from crib.cli.usage.rows import Shown
from crib.cli.usage_options import MAX_INTERVAL, MIN_INTERVAL, Layout, Sort

MAX_TEXT = 200
"""Characters of a filter."""

_SEQUENCES = {
    "[A": "up",
    "[B": "down",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "[1~": "home",
    "[F": "end",
    "[4~": "end",
    "OA": "up",
    "OB": "down",
    "OH": "home",
    "OF": "end",
}
"""What terminals send after ESC (ECMA-48, xterm)."""
_CONTROLS = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x15": "clear"}
_SORTS = {
    "c": Sort.CPU,
    "m": Sort.MEMORY,
    "i": Sort.IO,
    "n": Sort.NETWORK,
    "p": Sort.PRESSURE,
    "d": Sort.DISK,
    "u": Sort.PIDS,
    "a": Sort.NAME,
}
_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1}
HELP = (
    ("c m i n p", "sort by CPU, memory, io, network, pressure"),
    ("d u a", "sort by disk, processes, name"),
    ("r", "reverse the order"),
    ("t", "tree, only pods, only containers"),
    ("/", "filter by words of names, or an id; Enter ends it"),
    ("Esc", "remove the filter"),
    ("j k", "scroll, as arrows, PgUp, PgDn, Home and End do"),
    ("space", "pause"),
    ("+ -", "read more often, less often"),
    ("? h", "this help"),
    ("q", "quit, as Ctrl-C does"),
)


class KeyReader:
    """Turns what a terminal sends into keys: characters, or names such as `up` and `enter`."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, typed: bytes) -> list[str]:
        """The keys of one read. An ESC that nothing follows in it is the key of that name."""
        text, keys = self._decoder.decode(typed), []
        while text:
            if text[0] == "\x1b":
                name, text = _sequence(text[1:])
            else:
                name, text = _CONTROLS.get(text[0], text[0]), text[1:]
            if name and name.isprintable():
                keys.append(name)
        return keys


def _sequence(text: str) -> tuple[str, str]:
    """The key of an escape sequence (empty for one that is not known), and what follows it."""
    if text[:1] not in ("[", "O"):
        return "escape", text
    for end in range(1, len(text)):
        if "@" <= text[end] <= "~":  # the final byte (ECMA-48, 5.4)
            return _SEQUENCES.get(text[: end + 1], ""), text[end + 1 :]
    return "", ""


@dataclass(frozen=True, slots=True)
class View:
    """What the person sees of the figures."""

    shown: Shown
    interval: float
    offset: int = 0
    """The first row on the screen."""
    paused: bool = False
    typing: bool = False
    """A filter is being typed."""
    help: bool = False
    left: bool = False
    """The person has had enough."""


def press(view: View, key: str, page: int) -> View:
    """The view after a key; `page` is how many rows the screen has."""
    if view.typing:
        return _typed(view, key)
    if view.help:
        return replace(view, help=False, left=key == "q")
    if key in _SORTS:
        return replace(view, shown=replace(view.shown, sort=_SORTS[key]), offset=0)
    if key in _STEPS or key.startswith("page") or key in ("home", "end"):
        return replace(view, offset=_scrolled(view.offset, key, page))
    return _switched(view, key)


def _switched(view: View, key: str) -> View:
    shown = view.shown
    match key:
        case "q":
            return replace(view, left=True)
        case "r":
            return replace(view, shown=replace(shown, reverse=not shown.reverse), offset=0)
        case "t":
            layouts = list(Layout)
            following = layouts[(layouts.index(shown.layout) + 1) % len(layouts)]
            return replace(view, shown=replace(shown, layout=following), offset=0)
        case "/":
            return replace(view, typing=True)
        case "escape":
            return replace(view, shown=replace(shown, text=""), offset=0)
        case " ":
            return replace(view, paused=not view.paused)
        case "+" | "=":
            return replace(view, interval=max(MIN_INTERVAL, view.interval / 2))
        case "-":
            return replace(view, interval=min(MAX_INTERVAL, view.interval * 2))
        case "?" | "h":
            return replace(view, help=True)
        case _:
            return view


def _scrolled(offset: int, key: str, page: int) -> int:
    """Beyond the last row is put right by who draws: the number of rows changes all the time."""
    if key == "home":
        return 0
    if key == "end":
        return 1 << 30
    step = _STEPS.get(key) or (-page if key == "page up" else page)
    return max(0, offset + step)


def _typed(view: View, key: str) -> View:
    text = view.shown.text
    if key == "enter":
        return replace(view, typing=False)
    if key == "escape":
        text, view = "", replace(view, typing=False)
    elif key == "backspace":
        text = text[:-1]
    elif key == "clear":
        text = ""
    elif len(key) == 1:
        text = (text + key)[:MAX_TEXT]
    return replace(view, shown=replace(view.shown, text=text), offset=0)
