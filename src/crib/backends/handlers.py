"""Every handler of the settings, by its kind. A new kind of runtime is a class, and a line in `KINDS`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.extensions import HANDLERS, load
from crib.backends.oci.handler import OciHandler
from crib.backends.shim.handler_notes import noted_handlers
from crib.model.errors import CribError
from crib.model.facts import HostFacts
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.settings import Settings
from crib.ports.handler import Handler

_log = logging.getLogger(__name__)


class HandlerKind(Protocol):
    """A class of handlers."""

    async def open(self, opening: HandlerOpening) -> Handler:
        """Find what it runs with. CribError, which says what to do, where it could run nothing."""
        ...

    def closed(self, opening: HandlerOpening, problem: str) -> Handler:
        """One that runs nothing, and says why; what it made before can be stopped and removed."""
        ...


KINDS: dict[str, HandlerKind] = {"oci": OciHandler}
"""By `handlers.NAME.kind`; others are added by `check_kinds`."""
_SHIM = "shim"
"""Is imported where a handler is one: the messages of shims take 2 MiB."""


def check_kinds(settings: Settings) -> None:
    """Load kinds that are not in the table; Broken. To be called before anything is made or opened."""
    for name, handler in settings.handlers.items():
        if handler.kind == _SHIM:
            _load_shims()
        elif handler.kind not in KINDS:
            known = (*KINDS, _SHIM)
            KINDS[handler.kind] = load(HANDLERS, handler.kind, f"handlers.{name}.kind", known)


def closed_handlers(
    settings: Settings, paths: Paths, facts: HostFacts, layers: SharedLayers
) -> Mapping[HandlerName, Handler]:
    """None can run anything, but what they made can be removed, also where their programs are gone."""
    openings = _openings(settings, paths, facts, layers)
    return {name: _kind(opening).closed(opening, "it only removes") for name, opening in openings.items()}


async def open_handlers(
    settings: Settings, paths: Paths, facts: HostFacts, layers: SharedLayers, *, to_run: bool = True
) -> Mapping[HandlerName, Handler]:
    """Probe each. One that cannot be used runs nothing and says why; the default one is an error `to_run`."""
    openings = _openings(settings, paths, facts, layers)
    handlers: dict[HandlerName, Handler] = {}
    for name, opening in openings.items():
        try:
            handlers[name] = await _kind(opening).open(opening)
        except CribError as error:
            if to_run and name == settings.default_handler:
                raise
            _log.warning("handler %s cannot be used: %s", name, error)
            handlers[name] = _kind(opening).closed(opening, str(error))
    return handlers


def _openings(
    settings: Settings, paths: Paths, facts: HostFacts, layers: SharedLayers
) -> dict[HandlerName, HandlerOpening]:
    default = HandlerName(settings.default_handler)
    names = dict.fromkeys((*map(HandlerName, settings.handlers), default))
    retired = {name: options for name, options in noted_handlers(paths).items() if name not in names}
    others = frozenset((*names, *retired)) - {default}
    openings = {
        name: HandlerOpening(name, settings, paths, facts, layers, others if name == default else None)
        for name in names
    }
    if retired:
        _load_shims()
        theirs = replace(settings, handlers=retired)
        for name in retired:
            handler = HandlerName(name)
            openings[handler] = HandlerOpening(handler, theirs, paths, facts, layers, retired=True)
    return openings


def _load_shims() -> None:
    from crib.backends.shim.handler import ShimHandler

    KINDS[_SHIM] = ShimHandler


def _kind(opening: HandlerOpening) -> HandlerKind:
    return KINDS[opening.options.kind]
