"""How a repair reports what became of its findings."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any

from crib.engine.core import Core
from crib.model.errors import CribError
from crib.model.finding import Finding

_log = logging.getLogger(__name__)


async def mended(core: Core, findings: Iterable[Finding], work: Coroutine[Any, Any, object]) -> list[Finding]:
    """The findings after the work that mends them all. A caller that goes away ends its waiting, not that."""
    found = list(findings)
    for one in found:
        _log.warning("%s: %s: %s; a repair was asked for: %s", one.area, one.subject, one.problem, one.mend)
    try:
        await core.keeper.begin(f"repair of {found[0].area}", work).wait()
    except CribError as error:
        return [replace(one, mend_error=str(error)) for one in found]
    return [replace(one, mended=True) for one in found]
