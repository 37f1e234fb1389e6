"""A plugin's name and index: given, told by the runtime that starts it, or those of its executable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

DEFAULT_SOCKET = "/var/run/nri/nri.sock"
"""Where runtimes listen for plugins."""
NAME_VARIABLE = "NRI_PLUGIN_NAME"
INDEX_VARIABLE = "NRI_PLUGIN_IDX"
SOCKET_VARIABLE = "NRI_PLUGIN_SOCKET"
"""A descriptor: the connection that the runtime made for a plugin that it has started."""

_INDEX = re.compile(r"[0-9]{2}")
_NAME = re.compile(r"[a-zA-Z0-9_.+-]+")


class NriError(Exception):
    """The plugin cannot run, or its runtime is gone."""


@dataclass(frozen=True, slots=True)
class PluginIdentity:
    """What a plugin registers as. Runtimes ask plugins in the order of their indices, 00 to 99."""

    name: str
    index: str

    def __post_init__(self) -> None:
        if not _INDEX.fullmatch(self.index):
            raise NriError(f"plugin index {self.index!r}: it has two digits")
        if not _NAME.fullmatch(self.name):
            raise NriError(f"plugin name {self.name!r}: it has letters, digits and _ . + - only")

    def __str__(self) -> str:
        return f"{self.index}-{self.name}"


def identity_of(name: str, index: str, program: str, environment: Mapping[str, str]) -> PluginIdentity:
    """`name` and `index` as given; where empty what the runtime says, else what `10-name` of the program
    says.

    NriError if nothing says it.
    """
    name = name or environment.get(NAME_VARIABLE, "")
    index = index or environment.get(INDEX_VARIABLE, "")
    if name and index:
        return PluginIdentity(name, index)
    base = PurePath(program).name
    if index:
        return PluginIdentity(base, index)
    index, dash, rest = base.partition("-")
    if not dash or not _INDEX.fullmatch(index):
        raise NriError(f"the plugin has no index: give one, or name the executable NN-{name or base}")
    return PluginIdentity(name or rest, index)
