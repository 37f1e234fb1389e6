"""Every handler of the settings that can be used on this host."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from crib.backends.oci.environment import open_environment
from crib.backends.oci.handler import OciHandler
from crib.backends.oci.rootfs import LayerMounts
from crib.model.errors import CribError
from crib.model.facts import HostFacts
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.settings import Settings
from crib.ports import Handler

log = logging.getLogger(__name__)


async def open_handlers(
    settings: Settings, paths: Paths, facts: HostFacts, layers: LayerMounts
) -> Mapping[HandlerName, Handler]:
    """Probe each. One that cannot be used is logged and left out, unless it is the default one."""
    handlers: dict[HandlerName, Handler] = {}
    for text in settings.handlers:
        name = HandlerName(text)
        try:
            handlers[name] = OciHandler(await open_environment(name, settings, paths, facts), layers)
        except CribError as error:
            if text == settings.default_handler:
                raise
            log.warning("handler %s is not offered: %s", name, error)
    return handlers
