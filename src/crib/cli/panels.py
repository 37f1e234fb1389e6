"""The headings under which `crib --help` lists commands, in their order."""

from __future__ import annotations

RUN = "Run pods"
LOOK = "Look at pods"
WORK = "Work in pods"
CHANGE = "Stop, start and change pods"
IMAGES = "Images"
NODE = "The node"
RUNTIME = "Single calls of the runtime, as crictl has them"

_ORDER = (RUN, LOOK, WORK, CHANGE, IMAGES, NODE, RUNTIME)


def place(panel: str) -> tuple[int, str]:
    """For sorting: ours first."""
    return (_ORDER.index(panel) if panel in _ORDER else len(_ORDER), panel)
