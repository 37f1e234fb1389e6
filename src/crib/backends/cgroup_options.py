"""Options of the cgroup tree that the settings ask for."""

from __future__ import annotations

import logging

from crib.backends.failures import why
from crib.host.cgroup_options import favour_changes
from crib.host.cgroups import CgroupLayout, detect_layout
from crib.host.threads import OURS
from crib.model.settings import Settings

_log = logging.getLogger(__name__)


async def cgroup_layout(settings: Settings, *, for_wipe: bool) -> CgroupLayout:
    """What there is, with favordynmods if that is wanted; a warning where it cannot be had.

    The option is never taken away: others may have wanted it, too. A wipe changes nothing.
    """
    return await OURS.run("looking at the cgroup trees", _look, settings.cgroup_favordynmods and not for_wipe)


def _look(is_wanted: bool) -> CgroupLayout:
    layout = detect_layout()
    if not is_wanted or layout.favours_changes:
        return layout
    if layout.mode != "v2" or layout.unified is None:
        _log.warning("cgroup_favordynmods has no effect: cgroups are not version 2")
        return layout
    try:
        favour_changes(layout.unified)
    except OSError as error:
        _log.warning("cgroup_favordynmods has no effect: %s", why(error))
    return detect_layout()
