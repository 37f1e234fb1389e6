"""Clearing away what work has left that came to its end when nobody waited for it any more."""

from __future__ import annotations

import logging
from collections.abc import Coroutine

from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)


def clear_away(what: str, work: Coroutine[object, object, object]) -> None:
    """Do it behind everybody's back; a failure is logged, as there is nobody to tell."""
    HANDS.part(what, _logged(what, work))


async def _logged(what: str, work: Coroutine[object, object, object]) -> None:
    try:
        await work
    except Exception as error:
        _log.warning("%s, which came too late: %s", what, error)
