"""A plugin's life as a value: what may come next, and what a plugin may call itself. Pure.

    connected → registered → configured → synchronizing → ready
        └───────────┴────────────┴──────────────┴───────────┴──→ gone

`connected`: nothing is known of it. `registered`: it has said its name. `configured`: it has said which
events it wants. `synchronizing`: it is being told of all pods and containers, and nothing is made meanwhile.
`ready`: it takes part in verbs. `gone`: for good; a plugin that comes back has another life.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from crib.model.plugin_status import PluginState

_NEXT = {
    PluginState.CONNECTED: PluginState.REGISTERED,
    PluginState.REGISTERED: PluginState.CONFIGURED,
    PluginState.CONFIGURED: PluginState.SYNCHRONIZING,
    PluginState.SYNCHRONIZING: PluginState.READY,
}
_INDEX = re.compile(r"[0-9]{2}")
_NAME = re.compile(r"[A-Za-z0-9_.+-]+")
MAX_NAME = 128
"""Characters: names stand in log lines, metrics and errors."""


class Breach(Exception):
    """A plugin did what the protocol does not allow; the message says what."""


def following(state: PluginState, wanted: PluginState) -> PluginState:
    """`wanted`, if that may follow. Breach."""
    if state is not PluginState.GONE and wanted in (PluginState.GONE, _NEXT.get(state)):
        return wanted
    raise Breach(f"it cannot become {wanted} while it is {state}")


@dataclass(frozen=True, slots=True, order=True)
class PluginName:
    """How a plugin is told from others; plugins are asked in this order."""

    index: str
    """Two digits."""
    base: str

    def __str__(self) -> str:
        return f"{self.index}-{self.base}"

    @classmethod
    def checked(cls, index: str, base: str) -> Self:
        """ValueError, naming the field of the registration."""
        if not _INDEX.fullmatch(index):
            raise ValueError(f"plugin_idx must be two digits, and is {index[:MAX_NAME]!r}")
        if not _NAME.fullmatch(base) or len(base) > MAX_NAME:
            raise ValueError(
                f"plugin_name must be 1 to {MAX_NAME} of the characters [a-zA-Z0-9_.+-], "
                f"and is {base[:MAX_NAME]!r}"
            )
        return cls(index, base)

    @classmethod
    def of_file(cls, name: str) -> Self:
        """Of an executable `IDX-NAME`. ValueError."""
        index, dash, base = name.partition("-")
        if not dash:
            raise ValueError(f"{name!r} is not named IDX-NAME")
        return cls.checked(index, base)

    @property
    def configurations(self) -> tuple[str, str]:
        """File names of its configuration, the first that exists counts."""
        return f"{self}.conf", f"{self.base}.conf"
