"""Every handler of the settings, by its kind. A new kind of runtime is a class, and a line in `KINDS`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.extensions import HANDLERS, load
from crib.backends.failures import trying
from crib.backends.handler_notes import noted_handlers
from crib.backends.oci.handler import OciHandler
from crib.host.threads import FOREIGN, Job
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
LOOK_SECONDS = 10.0
"""For reading the files that a new handler is opened from."""
LOOK_BYTES = 1 << 20
_LATE = {
    "shim": ("crib.backends.shim.handler", "ShimHandler"),
    "vm": ("crib.backends.vm.handler", "VmHandler"),
    "docker": ("crib.backends.docker.handler", "DockerHandler"),
}
"""Kinds that are imported where a handler is one: the messages of shims take 2 MiB, and the daemon needs no
HTTP client otherwise."""


def check_kinds(settings: Settings) -> None:
    """Load kinds that are not in the table; Broken. To be called before anything is made or opened."""
    for name, handler in settings.handlers.items():
        if handler.kind in _LATE:
            _load(handler.kind)
        elif handler.kind not in KINDS:
            known = sorted({*KINDS, *_LATE})
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
    return {
        name: await _opened(opening, must=to_run and name == settings.default_handler)
        for name, opening in openings.items()
    }


async def _opened(opening: HandlerOpening, *, must: bool) -> Handler:
    try:
        return await _kind(opening).open(opening)
    except CribError as error:
        if must:
            raise
        _log.warning("handler %s cannot be used: %s", opening.name, error)
        return _kind(opening).closed(opening, str(error))


@dataclass(frozen=True, slots=True)
class LaterHandlers:
    """Opens handlers while the daemon runs, with what the others were opened with."""

    paths: Paths
    facts: HostFacts
    layers: SharedLayers

    async def open(self, settings: Settings, names: Sequence[HandlerName]) -> dict[HandlerName, Handler]:
        """Probe each of these. One that cannot be used runs nothing and says why."""
        found = {}
        for name in names:
            opening = HandlerOpening(name, settings, self.paths, self.facts, self.layers)
            job = Job(f"looking at the files of handler {name}", limit=LOOK_SECONDS)
            with trying(f"handler {name}"):
                await FOREIGN.run(job, _look, opening)  # a disk that hangs must not hold up the loop below
            found[name] = await _opened(opening, must=False)
        return found


def _look(opening: HandlerOpening) -> None:
    """Read what a handler is opened from, to the end. What is not there is told when it is opened."""
    options, settings = opening.options, opening.settings
    programs = (options.path or opening.name, settings.conmon)
    files = (options.base_spec, options.containers.seccomp_profile)
    for path in (*map(shutil.which, programs), *files):
        with contextlib.suppress(OSError), open(path or os.devnull, "rb") as file:
            while file.read(LOOK_BYTES):
                pass


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
        theirs = replace(settings, handlers=retired)
        for name, options in retired.items():
            _load(options.kind)
            handler = HandlerName(name)
            openings[handler] = HandlerOpening(handler, theirs, paths, facts, layers, retired=True)
    return openings


def _load(kind: str) -> None:
    if kind not in KINDS:
        module, name = _LATE[kind]
        KINDS[kind] = getattr(importlib.import_module(module), name)


def _kind(opening: HandlerOpening) -> HandlerKind:
    return KINDS[opening.options.kind]
