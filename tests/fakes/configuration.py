"""Settings that come from nowhere."""

from __future__ import annotations

from crib.model.configuration import Reloaded, ShownConfiguration, ShownKey


class FakeConfiguration:
    """`outcome` is what a reload answers."""

    def __init__(self) -> None:
        self.shown = ShownConfiguration(
            (ShownKey("log.level", '"debug"', '"info"', "c.toml:2:1", True),), ("c.toml",), (), (), ()
        )
        self.outcome = Reloaded()

    async def show(self) -> ShownConfiguration:
        return self.shown

    async def reload(self) -> Reloaded:
        return self.outcome
