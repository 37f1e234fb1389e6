"""Every handler of the settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from crib.backends.bundle.rootfs import SharedLayers
from crib.backends.oci.environment import OciEnvironment, closed_environment, open_environment
from crib.backends.oci.handler import OciHandler
from crib.model.errors import CribError
from crib.model.facts import HostFacts
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.settings import Settings
from crib.ports.handler import Handler

_log = logging.getLogger(__name__)


def closed_handlers(
    settings: Settings, paths: Paths, facts: HostFacts, layers: SharedLayers
) -> Mapping[HandlerName, Handler]:
    """None can run anything, but what they made can be removed, also where their programs are gone."""
    environments = {
        HandlerName(name): closed_environment(HandlerName(name), settings, paths, facts, "it only removes")
        for name in (*settings.handlers, settings.default_handler)
    }
    return _handlers(environments, settings, layers)


async def open_handlers(
    settings: Settings, paths: Paths, facts: HostFacts, layers: SharedLayers, *, to_run: bool = True
) -> Mapping[HandlerName, Handler]:
    """Probe each. One that cannot be used runs nothing and tells why; the default one is an error `to_run`.

    The default one looks after what handlers have made that are not configured any more.
    """
    environments: dict[HandlerName, OciEnvironment] = {}
    for text in settings.handlers:
        name = HandlerName(text)
        try:
            environments[name] = await open_environment(name, settings, paths, facts)
        except CribError as error:
            if to_run and text == settings.default_handler:
                raise
            _log.warning("handler %s cannot be used: %s", name, error)
            environments[name] = closed_environment(name, settings, paths, facts, str(error))
    return _handlers(environments, settings, layers)


def _handlers(
    environments: dict[HandlerName, OciEnvironment], settings: Settings, layers: SharedLayers
) -> Mapping[HandlerName, Handler]:
    default = HandlerName(settings.default_handler)
    others = frozenset(environments) - {default}
    environments[default] = replace(environments[default], others=others)
    return {name: OciHandler(environment, layers) for name, environment in environments.items()}
