"""The handlers of this node. A reload adds some, and withdraws others that only look after their own then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from crib.model.ids import HandlerName
from crib.model.settings import HandlerSettings, Settings
from crib.ports.handler import Handler


class HandlerTable(Mapping[HandlerName, Handler]):
    """All that were opened, by name. Who goes through them sees those of the moment in which he began."""

    def __init__(self, handlers: Mapping[HandlerName, Handler]) -> None:
        self._handlers = dict(handlers)
        self._withdrawn: dict[str, HandlerSettings] = {}

    def __getitem__(self, name: HandlerName) -> Handler:
        return self._handlers[name]

    def __iter__(self) -> Iterator[HandlerName]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, handlers: Mapping[HandlerName, Handler]) -> None:
        """These were opened since."""
        self._handlers = {**self._handlers, **handlers}

    @property
    def offered(self) -> dict[HandlerName, Handler]:
        """Those that new pods may ask for."""
        return {
            name: handler
            for name, handler in self._handlers.items()
            if not handler.facts.retired and name not in self._withdrawn
        }

    @property
    def gone(self) -> dict[str, HandlerSettings | None]:
        """Those that only look after what they made, with their settings if a reload withdrew them."""
        found: dict[str, HandlerSettings | None] = dict(self._withdrawn)
        found |= {name: None for name, handler in self._handlers.items() if handler.facts.retired}
        return found

    def adapt(self, before: Settings, settings: Settings) -> None:
        """Go by other settings. What they do not name any more is withdrawn, and keeps its own."""
        for name in before.handlers.keys() - settings.handlers.keys():
            self._withdrawn[name] = before.handlers[name]
        for name in settings.handlers:
            self._withdrawn.pop(name, None)
        for name, handler in self._handlers.items():
            own = self._withdrawn.get(name)
            tables = settings.handlers if own is None else {**settings.handlers, name: own}
            handler.adapt(replace(settings, handlers=tables))
