"""Where the settings come from, and how they are read again."""

from __future__ import annotations

from typing import Protocol

from crib.model.configuration import Reloaded, ShownConfiguration


class ConfigurationSource(Protocol):
    """Of one daemon."""

    async def show(self) -> ShownConfiguration:
        """The settings that hold, each with its origin."""
        ...

    async def reload(self) -> Reloaded:
        """Read the files again, and go by what they say: all of it, or nothing if anything is wrong."""
        ...
